"""Greedy answers of a batch of prompts: rows that ended leave the batch, and what all prompts share is computed once.

`generate` of transformers does the work. It runs a batch until its longest answer ends, so it is stopped when a part of
the rows have ended, and goes on with the others and their cache. Tokens that all prompts begin with, such as examples
before each question, have one cache that is copied for each batch. The answers are those of one row at a time, but for
rounding.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from tasks.models.batches import pad

LEAST_SHARED = 32
"""Fewest shared tokens that are computed apart: for fewer the additional forward pass takes as long as it saves."""
# the part of its rows at which a batch is made smaller
_PART_LEFT = 0.75
# what else a model's generation_config may ask of greedy answers; it would count padding as text
_PLAIN = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_new_tokens": 0}
# positions that depend on the longest row of a batch
_ROPE_BY_LENGTH = ("dynamic", "longrope")


class _FewLeft(StoppingCriteria):
    """Stops a batch when at most a part of its rows is not `ended`, [rows] bool."""

    def __init__(self, num_rows: int, end_token_ids: torch.Tensor) -> None:
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=end_token_ids.device)
        self._ends = end_token_ids

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor | None, **_: Any) -> torch.Tensor:  # type: ignore[override]
        self.ended |= torch.isin(input_ids[:, -1], self._ends)
        return ((~self.ended).sum() <= _PART_LEFT * len(self.ended)).expand(len(self.ended))


@dataclass(frozen=True)
class _Shared:
    """Tokens that prompts begin with, and their keys and values, for one row."""

    ids: list[int]
    cache: DynamicCache


class GreedyDecoder:
    """Answers batches of prompts with one model; `pad_token_id` stands where a prompt is padded or an answer ended."""

    def __init__(self, model: PreTrainedModel | PeftModel, end_token_ids: Sequence[int], pad_token_id: int) -> None:
        self._model = model
        self._ends = torch.tensor(list(end_token_ids), dtype=torch.long, device=model.device)
        self._pad_token_id = pad_token_id
        self._shared: _Shared | None = None
        cache = self._cache_of([pad_token_id]) if _may_keep_cache(model) else None
        self._drops_rows = type(cache) is DynamicCache
        self._layers = list(cache.layers) if type(cache) is DynamicCache else []

    @torch.inference_mode()
    def answers(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        """Return the greedy answer to each prompt, in their order: its tokens, the first end token included.

        An answer has at most `max_new_tokens` tokens. Settings of the model's generation_config that change greedy
        answers, such as a repetition penalty, have no effect.
        """
        ids, mask, cache = self._inputs(prompts, max_new_tokens)
        width = ids.shape[1]
        answers: list[list[int]] = [[] for _ in prompts]
        rows = torch.arange(len(prompts))
        while len(rows):
            few_left = _FewLeft(len(rows), self._ends)
            new = width + max_new_tokens - ids.shape[1]
            ids, cache = self._generate(ids, mask, new, cache, few_left if self._drops_rows else None)
            is_over = not self._drops_rows or ids.shape[1] >= width + max_new_tokens
            ended = few_left.ended.cpu() | is_over
            for row, tokens in zip(rows[ended].tolist(), ids[ended, width:].tolist(), strict=True):
                answers[row] = _to_end(tokens, self._ends.tolist())
            left = (~ended).nonzero()[:, 0]
            if len(left) and cache is not None:
                # selects rows of every kind of layer, as beam search does
                cache.reorder_cache(left)
            ids, rows = ids[left], rows[left]
            mask = torch.nn.functional.pad(mask[left], (0, ids.shape[1] - mask.shape[1]), value=1)
        return answers

    def _inputs(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
        """Return (ids [rows, width], mask [rows, width], a cache of the first columns or None).

        Padding stands after the tokens that all prompts share, or before a whole prompt.
        """
        shared = self._shared_by(prompts, max_new_tokens)
        number = len(shared.ids) if shared else 0
        ids, mask = pad([list(prompt[number:]) for prompt in prompts], self._pad_token_id, "left")
        ids, mask = ids.to(self._model.device), mask.to(self._model.device)
        if shared is None:
            return ids, mask, None
        start = torch.tensor(shared.ids, device=ids.device).expand(len(prompts), -1)
        cache = copy.deepcopy(shared.cache)
        cache.batch_repeat_interleave(len(prompts))
        return torch.cat([start, ids], 1), torch.cat([torch.ones_like(start), mask], 1), cache

    def _shared_by(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> _Shared | None:
        """Return the tokens that all prompts begin with and their cache; None if they are few or cannot be apart."""
        # each prompt keeps a token, whose logits are needed
        number = min(_num_shared(prompts), min(map(len, prompts)) - 1)
        columns = max(map(len, prompts)) + max_new_tokens
        if not self._drops_rows or not _shares_prefix(self._model, self._layers, columns):
            return None
        ids = list(prompts[0][:number])
        kept = self._shared
        if kept is not None and kept.ids == ids[: len(kept.ids)] and number - len(kept.ids) < LEAST_SHARED:
            return kept
        if number < LEAST_SHARED or len(prompts) == 1:
            return None
        self._shared = _Shared(ids, self._cache_of(ids))
        return self._shared

    def _cache_of(self, ids: list[int]) -> Any:
        """Return the cache after a forward pass over one row of tokens."""
        row = torch.tensor([ids], device=self._model.device)
        return self._generate(row, torch.ones_like(row), 1, None, None)[1]

    def _generate(
        self, ids: torch.Tensor, mask: torch.Tensor, new: int, cache: Any, stops: StoppingCriteria | None
    ) -> tuple[torch.Tensor, Any]:
        """Return (`ids` and at most `new` tokens [rows, seq], the cache after them)."""
        generation = GenerationConfig(
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=self._ends.tolist() or None,
            pad_token_id=self._pad_token_id,
            return_dict_in_generate=True,
            **_PLAIN,
        )
        more: dict[str, Any] = {} if cache is None else {"past_key_values": cache}
        if stops is not None:
            more["stopping_criteria"] = StoppingCriteriaList([stops])
        output = self._model.generate(input_ids=ids, attention_mask=mask, generation_config=generation, **more)
        return output.sequences, output.past_key_values


def _may_keep_cache(model: PreTrainedModel | PeftModel) -> bool:
    """Return whether `generate` can go on from a cache: not with virtual tokens, nor with code from a hub."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False
    base = _base_of(model)
    return "past_key_values" in inspect.signature(base.forward).parameters and not base.is_remote_code()


def _base_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def _shares_prefix(model: PreTrainedModel | PeftModel, layers: Sequence[Any], columns: int) -> bool:
    """Return whether padding may stand between shared tokens and a prompt, in a batch of so many `columns`.

    It may where the mask alone says what padding is: not where a state runs through all columns, a window counts them,
    or positions are not given.
    """
    base = _base_of(model)
    if "position_ids" not in inspect.signature(base.forward).parameters:
        return False
    rope = getattr(base.config.get_text_config(), "rope_parameters", None) or {}
    kinds = [rope.get("rope_type"), *(each.get("rope_type") for each in rope.values() if isinstance(each, dict))]
    if any(kind in _ROPE_BY_LENGTH for kind in kinds):
        return False
    return all(
        type(layer) in (DynamicLayer, DummyLayer)
        or (type(layer) is DynamicSlidingWindowLayer and columns <= layer.sliding_window)
        for layer in layers
    )


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all prompts begin with."""
    # the smallest and the largest prompt, in the order of lists, differ first
    first, last = list(min(prompts, key=list)), list(max(prompts, key=list))
    pairs = zip(first, last, strict=False)
    return next((number for number, (one, other) in enumerate(pairs) if one != other), min(len(first), len(last)))


def _to_end(ids: list[int], end_token_ids: list[int]) -> list[int]:
    """Return `ids` up to the first end token, which is included; what follows is padding."""
    ends = [position for position, token in enumerate(ids) if token in end_token_ids]
    return ids[: ends[0] + 1] if ends else ids
