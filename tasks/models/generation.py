"""Greedy answers of a model to the prompts of held-out rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd
from peft import PeftModel, PeftType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from configs.effective.lengths import LONGEST_ANSWER
from configs.schema import EvaluateConfig
from tasks.models.answer_text import AnswerReader
from tasks.models.batches import prompt_batches
from tasks.models.decoding import GreedyDecoder
from tasks.models.pace import Count, counting

_SHOWN_SAMPLES = 4


@dataclass(frozen=True)
class Answer:
    """A generated answer: its tokens, the end token included, and its text without special tokens.

    `text` is what is compared with the expected text, and shown: without the reasoning. `whole_text` has it, as reward
    functions get it in training too.
    """

    ids: list[int]
    text: str
    reasoning: str
    whole_text: str
    ended: bool


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: pd.DataFrame,
    config: EvaluateConfig,
    end_token_ids: list[int],
    counts_right: bool = True,
) -> list[Answer]:
    """Return the model's greedy answers to the prompts of `rows`, in their order, stripped of white space at the ends.

    `tasks.models.answer_text` says what of an answer is its reasoning.

    The log counts right answers unless `counts_right` is false, for prompts without an expected answer. An answer ends
    at one of `end_token_ids`, at the longest length allowed, or where the model has no more positions.
    """
    if rows.empty:
        return []
    expected_lengths = rows.input_ids.map(len) - rows.prompt_length
    longest = config.max_new_tokens or min(LONGEST_ANSWER, int(expected_lengths.max()))
    answers: dict[int, Answer] = {}
    reader = AnswerReader(tokenizer)
    settings = model.active_peft_config if isinstance(model, PeftModel) else None
    virtual = settings.num_virtual_tokens if settings is not None and settings.is_prompt_learning else 0
    positions = (getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf) - virtual
    # peft passes no position ids with virtual embeddings: padding would move a prompt away from them
    one_length = settings is not None and virtual > 0 and settings.peft_type != PeftType.PREFIX_TUNING
    lengths = rows.prompt_length.tolist()
    prompts = [list(ids[:length]) for ids, length in zip(rows.input_ids, lengths, strict=True)]
    limits = [int(min(longest, positions - length)) for length in lengths]
    batches = prompt_batches(lengths, config.rows_per_pass, positions - longest, one_length)
    decoder = GreedyDecoder(model, end_token_ids, tokenizer.pad_token_id)
    with counting("generate", len(rows), "rows") as count:
        for new in decoder.answers(prompts, limits, batches):
            texts = tokenizer.batch_decode(list(new.values()), skip_special_tokens=True)
            for (row, tokens), text in zip(new.items(), texts, strict=True):
                parts = reader.read(prompts[row], tokens)
                ended = tokens[-1] in end_token_ids
                answers[row] = Answer(tokens, parts.text, parts.reasoning, text.strip(), ended)
            _show(count, rows.iloc[list(new)], [answers[row] for row in new], counts_right)
    return [answers[row] for row in range(len(rows))]


def _show(count: Count, rows: pd.DataFrame, answers: list[Answer], counts_right: bool) -> None:
    """Add the `rows` that were just answered to `count`, which logs and the Deck show."""
    texts = [answer.text for answer in answers]
    count.samples = list(zip(rows.prompt, rows.expected, texts, strict=True))[-_SHOWN_SAMPLES:]
    count.num_right += sum(text == expected.strip() for text, expected in zip(texts, rows.expected, strict=True))
    count.add(len(rows), num_tokens=sum(len(answer.ids) for answer in answers))
    if counts_right:
        count.facts["exact match"] = f"{count.num_right / count.num_done:.1%}"
