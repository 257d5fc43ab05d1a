"""Score one model on the held-out rows: loss over all of them, greedy answers over some."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import DataError, ModelError
from configs.schema import EvaluateConfig, ModelConfig
from configs.wire import HELD_OUT, Evaluation, Prediction, Scores, SetScores
from tasks.evaluate.metrics import exact_match, is_long_text, rouge_l
from tasks.models.load import device, load_model, load_tokenizer, weights_size
from tasks.models.quiet import quiet_libraries

_IGNORED = -100
_LONGEST_ANSWER = 512


def evaluate_model(
    config: EvaluateConfig,
    model_config: ModelConfig,
    model_directory: Path,
    rows: pd.DataFrame,
    tokenizer_directory: Path,
    end_token_ids: list[int],
) -> Evaluation:
    """Return loss, perplexity, exact match and ROUGE-L of the model on `rows` (as the tokenize stage wrote them).

    Rows whose column `dataset` is `held-out` are scored first; those of each other value are a further set, apart.

    Raises:
        ModelError: the model cannot be loaded, or its loss is not a number.
        DataError: no held-out row is left.
    """
    quiet_libraries()
    tokenizer = load_tokenizer(tokenizer_directory, model_config.trust_remote_code)
    model = load_model(model_config, model_directory).to(device()).eval()  # type: ignore[arg-type]
    size = weights_size(model_directory)
    own = rows[rows.dataset == HELD_OUT].reset_index(drop=True)
    names = [name for name in dict.fromkeys(rows.dataset) if name != HELD_OUT]
    others = [rows[rows.dataset == name].reset_index(drop=True) for name in names]
    if own.empty:
        raise DataError("no held-out row is left: all are longer than tokenize.max_length; raise it")
    scores, predictions = _score(config, model_config.name, model, tokenizer, own, end_token_ids, size)
    return Evaluation(
        scores=scores,
        predictions=predictions,
        others=[
            SetScores(
                name=name, scores=_score(config, model_config.name, model, tokenizer, each, end_token_ids, size)[0]
            )
            for name, each in zip(names, others, strict=True)
        ],
    )


def _score(
    config: EvaluateConfig,
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: pd.DataFrame,
    end_token_ids: list[int],
    size_bytes: int,
) -> tuple[Scores, list[Prediction]]:
    loss, num_tokens = held_out_loss(model, rows, tokenizer.pad_token_id, config.batch_size)
    if not math.isfinite(loss):
        raise ModelError(f"{name}: the held-out loss is {loss}; its weights are damaged or diverged")
    asked = _spread(rows[rows.prompt_length > 0], config.generate_rows)
    answers = generate_answers(model, tokenizer, asked, config, end_token_ids)
    expected = list(asked.expected)
    predictions = [
        Prediction(row_id=row.row_id, prompt=row.prompt, expected=row.expected, answer=answer)
        for row, answer in zip(asked.itertuples(), answers, strict=True)
    ]
    scores = Scores(
        eval_loss=loss,
        perplexity=math.exp(min(loss, 700.0)),
        exact_match=exact_match(answers, expected),
        rouge_l=rouge_l(answers, expected) if is_long_text(expected) else None,
        loss_rows=len(rows),
        loss_tokens=num_tokens,
        generated_rows=len(asked),
        size_bytes=size_bytes,
    )
    return scores, predictions


def _spread(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return `number` of `rows` at even distances, so that every source has its share."""
    chosen = np.linspace(0, len(rows) - 1, min(number, len(rows))).round().astype(int)
    return rows.iloc[chosen]


@torch.inference_mode()
def held_out_loss(model: PreTrainedModel, rows: pd.DataFrame, pad_token_id: int, batch_size: int) -> tuple[float, int]:
    """Return (mean negative log-likelihood of a completion token in nats, number of such tokens).

    The denominator counts the labels that are not -100, the first of each row excepted: nothing predicts it.
    """
    total, count = 0.0, 0
    by_length = rows.input_ids.map(len).sort_values(kind="stable").index
    for start in tqdm(range(0, len(rows), batch_size), desc="loss", unit="batch", disable=None):
        batch = rows.loc[by_length[start : start + batch_size]]
        ids, mask = _pad(list(batch.input_ids), pad_token_id, "right")
        labels, _ = _pad(list(batch.labels), _IGNORED, "right")
        logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
        targets = labels[:, 1:].to(logits.device)
        losses = cross_entropy(
            logits[:, :-1].float().flatten(0, 1), targets.flatten(), ignore_index=_IGNORED, reduction="sum"
        )
        total += losses.item()
        count += int((targets != _IGNORED).sum())
    return total / max(1, count), count


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: pd.DataFrame,
    config: EvaluateConfig,
    end_token_ids: list[int],
) -> list[str]:
    """Return the model's greedy answer to each row's prompt, in the order of `rows`, without special tokens."""
    if rows.empty:
        return []
    expected_lengths = rows.input_ids.map(len) - rows.prompt_length
    longest = config.max_new_tokens or min(_LONGEST_ANSWER, int(expected_lengths.max()))
    answers: dict[int, str] = {}
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    for index in tqdm(_batches(rows.prompt_length, config.batch_size, positions - longest), "generate", disable=None):
        prompts = [list(ids[:n]) for ids, n in zip(rows.input_ids[index], rows.prompt_length[index], strict=True)]
        ids, mask = _pad(prompts, tokenizer.pad_token_id, "left")
        settings = GenerationConfig(
            max_new_tokens=int(min(longest, positions - ids.shape[1])),
            do_sample=False,
            eos_token_id=end_token_ids,
            pad_token_id=tokenizer.pad_token_id,
        )
        output = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
        texts = tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        answers.update(zip(index, texts, strict=True))
    return [answers[position].strip() for position in rows.index]


def _batches(lengths: pd.Series, batch_size: int, longest_prompt: float) -> list[pd.Index]:
    """Return the rows in batches of like length; those over `longest_prompt` alone, as their room is their own."""
    by_length = lengths.sort_values(kind="stable")
    together = by_length.index[by_length <= longest_prompt]
    alone = by_length.index[by_length > longest_prompt]
    batches = [together[start : start + batch_size] for start in range(0, len(together), batch_size)]
    return batches + [alone[position : position + 1] for position in range(len(alone))]


def _pad(rows: list[list[int]], value: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([batch, seq] int64 padded with `value`, [batch, seq] mask with 1 at real tokens)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for position, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[position, place] = torch.tensor(row, dtype=torch.long)
        mask[position, place] = 1
    return ids, mask
