"""What a model's weights were at the end of its training, kept as its predictions on a few held-out rows.

Merging, rounding to 16 bits, quantizing and saving change weights. Predictions of the weights as training held them are
written beside the model; whoever loads the model later can tell how far it is from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from configs.wire import Parity
from tasks.models.logits import logits_before
from tasks.models.placement import input_device

NUM_ROWS = 16
# of a row, the first tokens that count: more would say little more
_MOST_TOKENS = 64
# likeliest tokens of a prediction that are kept; the rest is one number
_NUM_LIKELIEST = 256


class CountedRow(NamedTuple):
    """A row as the loss counts it: token ids [seq], and which of them count [seq]; `number` is its place among
    the kept ones."""

    number: int
    input_ids: Sequence[int]
    is_counted: np.ndarray


def kept_positions(num_rows: int) -> list[int]:
    """Return the positions of at most 16 of `num_rows` rows, at even distances."""
    number = min(num_rows, NUM_ROWS)
    return [n * num_rows // number for n in range(number)]


def rows_to_keep(rows: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> list[CountedRow]:
    """Return at most 16 of `rows` (token ids, which count) at even distances."""
    return [
        CountedRow(number, rows[place][0], np.asarray(rows[place][1], dtype=bool))
        for number, place in enumerate(kept_positions(len(rows)))
    ]


@torch.inference_mode()
def write_reference(model: PreTrainedModel, rows: Sequence[CountedRow], path: Path) -> None:
    """Write what a model predicts on `rows` to `path`: log p of each counted token, and the likeliest in its place."""
    arrays: dict[str, np.ndarray] = {}
    for row in rows:
        if not row.is_counted[1:].any():
            continue
        values, ids = _log_probabilities(model, row)
        first = values[:_MOST_TOKENS]
        likeliest, tokens = first.topk(min(_NUM_LIKELIEST, first.shape[1]))
        arrays |= {
            f"{row.number}.input_ids": np.asarray(row.input_ids, dtype=np.int32),
            f"{row.number}.is_counted": row.is_counted,
            f"{row.number}.tokens": tokens.int().cpu().numpy(),
            f"{row.number}.log_probabilities": likeliest.cpu().numpy(),
            f"{row.number}.own": values.gather(1, ids.unsqueeze(1))[:, 0].cpu().numpy(),
        }
    if arrays:
        np.savez(path, **arrays)  # type: ignore[arg-type]


@torch.inference_mode()
def compare(model: PreTrainedModel, path: Path) -> Parity:
    """Return how far the model's predictions are from those that `write_reference` wrote to `path`.

    The divergence of a prediction is KL(reference, model) in nats, over the likeliest tokens and the sum of the rest,
    which is at most the divergence over all tokens.
    """
    divergences, same, held, own, number = [], [], 0.0, 0.0, 0
    with np.load(path) as file:
        numbers = sorted({int(name.partition(".")[0]) for name in file})
        for row_number in numbers:
            kept = {name: file[f"{row_number}.{name}"] for name in _KEPT}
            values, ids = _log_probabilities(model, CountedRow(row_number, kept["input_ids"], kept["is_counted"]))
            held -= float(kept["own"].sum(dtype=np.float64))
            own -= float(values.gather(1, ids.unsqueeze(1)).double().sum())
            number += len(ids)
            tokens = torch.from_numpy(kept["tokens"]).long()
            first = values[: len(tokens)].cpu()
            divergences.append(_divergence(torch.from_numpy(kept["log_probabilities"]), first.gather(1, tokens)))
            same.append(first.argmax(1) == tokens[:, 0])
    all_divergences = torch.cat(divergences)
    return Parity(
        rows=numbers,
        tokens=number,
        held_loss=held / number,
        own_loss=own / number,
        mean_divergence=float(all_divergences.mean()),
        high_divergence=float(all_divergences.quantile(0.99)),
        same_choice=float(torch.cat(same).float().mean()),
    )


_KEPT = ("input_ids", "is_counted", "tokens", "log_probabilities", "own")


def _log_probabilities(model: PreTrainedModel, row: CountedRow) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([tokens, vocab] float32 log p of the predictions of counted tokens, their ids [tokens])."""
    device = input_device(model)
    ids = torch.tensor([list(row.input_ids)], device=device)
    wanted = torch.from_numpy(row.is_counted).to(device).unsqueeze(0).clone()
    wanted[:, 0] = False
    logits = logits_before(model, ids, torch.ones_like(ids), wanted)
    return torch.log_softmax(logits.float(), dim=-1), ids[wanted].to(logits.device)


def _divergence(reference: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return [tokens] KL(reference, other) of log-probabilities [tokens, kept], the rest being one outcome."""
    p, q = reference.double(), other.double()
    rest_p, rest_q = (1 - p.exp().sum(1)).clamp_min(1e-12), (1 - q.exp().sum(1)).clamp_min(1e-12)
    return ((p.exp() * (p - q)).sum(1) + rest_p * (rest_p.log() - rest_q.log())).clamp_min(0).float()
