"""Log-probabilities of given tokens; logits are computed for these tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from tasks.models.batches import pad
from tasks.models.logits import logits_before
from tasks.models.pace import counting
from tasks.models.placement import input_device

IGNORED = -100
# in one forward pass, [tokens, vocab]: at most 2 GiB in 16 bits, unless a single row needs more
_MOST_LOGITS = 2**30
# tokens whose logits are converted to 32 bits at once
_CHUNK_TOKENS = 1024


@torch.inference_mode()
def token_log_probabilities(
    model: PreTrainedModel,
    sequences: Sequence[Sequence[int]],
    counted: Sequence[np.ndarray],
    pad_token_id: int,
    batch_size: int,
) -> list[np.ndarray]:
    """Return for each sequence [seq] float32: log p(token | the tokens before it) in nats, 0 where not `counted`.

    `counted` holds a bool array [seq] for each sequence. A first token has no log-probability, as nothing predicts it.
    A forward pass takes at most `batch_size` sequences, of similar length.
    """
    results = [np.zeros(len(ids), dtype=np.float32) for ids in sequences]
    vocabulary = int(model.config.get_text_config().vocab_size)
    lengths = [len(ids) for ids in sequences]
    with counting("loss", len(sequences), "rows", total_work=sum(lengths)) as count:
        for batch in _batches(lengths, counted, batch_size, vocabulary):
            for row, values in _of_batch(model, batch, sequences, counted, pad_token_id):
                results[row] = values
            tokens = sum(lengths[row] for row in batch)
            count.add(len(batch), work=tokens, num_tokens=tokens)
    return results


def _of_batch(
    model: PreTrainedModel,
    batch: Sequence[int],
    sequences: Sequence[Sequence[int]],
    counted: Sequence[np.ndarray],
    pad_token_id: int,
) -> list[tuple[int, np.ndarray]]:
    """Return (row, its [seq] log-probabilities) of one forward pass; an empty list where no token is counted."""
    ids, mask = pad([list(sequences[row]) for row in batch], pad_token_id, "right")
    wanted = torch.zeros_like(ids, dtype=torch.bool)
    for position, row in enumerate(batch):
        wanted[position, 1 : len(sequences[row])] = torch.from_numpy(np.asarray(counted[row][1:], dtype=bool))
    if not wanted.any():
        return []
    device = input_device(model)
    logits = logits_before(model, ids.to(device), mask.to(device), wanted.to(device))
    targets = ids[wanted].to(logits.device)
    values = torch.cat(
        [
            -cross_entropy(chunk.float(), tokens, reduction="none")
            for chunk, tokens in zip(logits.split(_CHUNK_TOKENS), targets.split(_CHUNK_TOKENS), strict=True)
        ]
    )
    by_position = torch.zeros(ids.shape, dtype=torch.float32)
    by_position[wanted] = values.cpu()
    return [(row, by_position[number, : len(sequences[row])].numpy().copy()) for number, row in enumerate(batch)]


def mean_loss(values: Sequence[np.ndarray], counted: Sequence[np.ndarray]) -> tuple[float | None, int]:
    """Return (mean of -`values` over the `counted` tokens, their number); first tokens are left out.

    The mean is None where no token is counted.
    """
    number = sum(int(mask[1:].sum()) for mask in counted)
    total = sum(float(row[1:][mask[1:]].sum(dtype=np.float64)) for row, mask in zip(values, counted, strict=True))
    return (-total / number if number else None), number


def _batches(
    lengths: list[int], counted: Sequence[np.ndarray], batch_size: int, vocabulary: int
) -> Iterator[list[int]]:
    """Yield the numbers of rows in batches of similar length whose logits fit into memory."""
    batch: list[int] = []
    tokens = 0
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        number = int(np.sum(counted[row]))
        if batch and (len(batch) == batch_size or (tokens + number) * vocabulary > _MOST_LOGITS):
            yield batch
            batch, tokens = [], 0
        batch.append(row)
        tokens += number
    if batch:
        yield batch
