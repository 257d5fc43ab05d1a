"""Greedy answers: rows that ended leave the batch and others join it, and what prompts share is computed once.

`generate` of transformers does the work. It runs a batch until its longest answer ends, so it is stopped when a part of
the rows have ended, and goes on with the others and their cache, to which new rows are added. Tokens that all prompts
begin with, such as examples before each question, have one cache that is copied for each batch. The answers are those
of one row at a time, but for rounding.
"""

from __future__ import annotations

import copy
import inspect
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import pad as pad_columns
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from tasks.models.batches import pad
from tasks.models.placement import input_device

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

    def __init__(self, num_rows: int, end_token_ids: Sequence[int], device: torch.device) -> None:
        self.ended = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._ends = torch.tensor(list(end_token_ids), dtype=torch.long, device=device)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor | None, **_: Any) -> torch.Tensor:  # type: ignore[override]
        self.ended |= torch.isin(input_ids[:, -1], self._ends)
        return ((~self.ended).sum() <= _PART_LEFT * len(self.ended)).expand(len(self.ended))


@dataclass(frozen=True)
class _Shared:
    """Tokens that prompts begin with, and their keys and values, for one row."""

    ids: list[int]
    cache: DynamicCache


@dataclass(frozen=True)
class _Batch:
    """Rows that are being answered, by number: their tokens so far [rows, seq], the mask, and the cache, if any.

    The cache has all columns but the last, or those of what the rows share.
    """

    rows: list[int]
    ids: torch.Tensor
    mask: torch.Tensor
    cache: Any


class GreedyDecoder:
    """Answers prompts with one model; `pad_token_id` stands where a prompt is padded or an answer ended."""

    def __init__(self, model: PreTrainedModel | PeftModel, end_token_ids: Sequence[int], pad_token_id: int) -> None:
        self._model = model
        self._device = input_device(model)
        self._ends = list(end_token_ids)
        self._pad_token_id = pad_token_id
        self._shared: _Shared | None = None
        cache = self._cache_of([pad_token_id]) if _may_keep_cache(model) else None
        self._drops_rows = type(cache) is DynamicCache
        self._layers = list(cache.layers) if cache is not None and self._drops_rows else []
        self._joins_rows = self._drops_rows and all(type(layer) in (DynamicLayer, DummyLayer) for layer in self._layers)

    @torch.inference_mode()
    def answers(
        self, prompts: Sequence[Sequence[int]], limits: Sequence[int], batches: Sequence[Sequence[int]]
    ) -> Iterator[dict[int, list[int]]]:
        """Yield greedy answers as they end, by the number of the prompt: their tokens, the first end token included.

        The answer to a prompt has at most as many tokens as its entry of `limits`. `batches` holds the numbers of
        prompts of similar length that may be computed together, with one limit unless rows can leave a batch. Settings
        of the model's generation_config that change greedy answers, such as a repetition penalty, have no effect.
        """
        waiting = deque(list(batch) for batch in batches)
        size = max(map(len, waiting), default=0)
        running: _Batch | None = None
        while waiting or running:
            if running is None:
                batch = self._start(waiting.popleft(), prompts, limits)
                batch = self._advance(batch, _tokens_left(batch, prompts, limits))
            elif self._joins_rows and waiting and len(running.rows) <= _PART_LEFT * size:
                free = size - len(running.rows)
                rows, waiting[0] = waiting[0][:free], waiting[0][free:]
                if not waiting[0]:
                    waiting.popleft()
                # with one token each they are as far as the rows that they join: the last is not in the cache
                batch = self._advance(self._start(rows, prompts, limits), 1)
            else:
                batch, running = self._advance(running, _tokens_left(running, prompts, limits)), None
            ended, left = self._without_ended(batch, prompts, limits)
            if ended:
                yield ended
            running = _joined(running, left, self._pad_token_id) if running and left else running or left

    def _start(self, rows: list[int], prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> _Batch:
        own = [prompts[row] for row in rows]
        ids, mask, cache = self._inputs(own, max(limits[row] for row in rows))
        return _Batch(rows, ids, mask, cache)

    def _advance(self, batch: _Batch, new: int) -> _Batch:
        """Return the batch with at most `new` tokens more."""
        stops = _FewLeft(len(batch.rows), self._ends, batch.ids.device) if self._drops_rows else None
        ids, cache = self._generate(batch.ids, batch.mask, new, batch.cache, stops)
        mask = pad_columns(batch.mask, (0, ids.shape[1] - batch.mask.shape[1]), value=1)
        return _Batch(batch.rows, ids, mask, cache)

    def _without_ended(
        self, batch: _Batch, prompts: Sequence[Sequence[int]], limits: Sequence[int]
    ) -> tuple[dict[int, list[int]], _Batch | None]:
        """Return (the answers that ended, the batch of the other rows if there are any)."""
        ended, left = {}, []
        for place, (row, ids, mask) in enumerate(
            zip(batch.rows, batch.ids.cpu(), batch.mask.bool().cpu(), strict=True)
        ):
            tokens = _to_end(ids[mask].tolist()[len(prompts[row]) :], self._ends)
            # of a model that keeps no cache all end together: `generate` ran to the end
            if not self._drops_rows or tokens[-1] in self._ends or len(tokens) >= limits[row]:
                ended[row] = tokens
            else:
                left.append(place)
        if not left:
            return ended, None
        places = torch.tensor(left, device=batch.ids.device)
        ids, mask = batch.ids[places], batch.mask[places]
        # columns in which only rows stood that left
        unused = int(mask.any(0).int().argmax()) if self._joins_rows else 0
        if ended:
            # selects rows of every kind of layer, as beam search does
            batch.cache.reorder_cache(places)
        if unused:
            _change_columns([batch.cache], lambda layers: layers[0][..., unused:, :])
        return ended, _Batch([batch.rows[place] for place in left], ids[:, unused:], mask[:, unused:], batch.cache)

    def _inputs(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor, DynamicCache | None]:
        """Return (ids [rows, width], mask [rows, width], a cache of the first columns or None).

        Padding stands after the tokens that all prompts share, or before a whole prompt.
        """
        shared = self._shared_by(prompts, max_new_tokens)
        number = len(shared.ids) if shared else 0
        ids, mask = pad([list(prompt[number:]) for prompt in prompts], self._pad_token_id, "left")
        ids, mask = ids.to(self._device), mask.to(self._device)
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
        row = torch.tensor([ids], device=self._device)
        return self._generate(row, torch.ones_like(row), 1, None, None)[1]

    def _generate(
        self, ids: torch.Tensor, mask: torch.Tensor, new: int, cache: Any, stops: StoppingCriteria | None
    ) -> tuple[torch.Tensor, Any]:
        """Return (`ids` and at most `new` tokens [rows, seq], the cache after them)."""
        generation = GenerationConfig(
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=self._ends or None,
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
    """Return whether `generate` can go on from a cache: not with virtual tokens, code from a hub or a cache by name."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return False
    base = _base_of(model)
    if "past_key_values" not in inspect.signature(base.forward).parameters or base.is_remote_code():
        return False
    # `hybrid` is what older models ask for, and has no effect
    return base.generation_config.cache_implementation in (None, "hybrid")


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


def _tokens_left(batch: _Batch, prompts: Sequence[Sequence[int]], limits: Sequence[int]) -> int:
    """Return how many tokens may follow until the first answer is as long as allowed, at least 1."""
    rows = zip(batch.rows, batch.mask.sum(1).tolist(), strict=True)
    return max(1, min(limits[row] + len(prompts[row]) - length for row, length in rows))


def _joined(batch: _Batch, other: _Batch, pad_token_id: int) -> _Batch:
    """Return the rows of both batches in one; the narrower gets padding before it. Their caches are used up."""
    width = max(batch.ids.shape[1], other.ids.shape[1])
    missing = [width - each.ids.shape[1] for each in (batch, other)]

    def columns(name: str, value: int) -> torch.Tensor:
        parts = [getattr(each, name) for each in (batch, other)]
        return torch.cat([pad_columns(part, (less, 0), value=value) for part, less in zip(parts, missing, strict=True)])

    def join(parts: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([pad_columns(part, (0, 0, less, 0)) for part, less in zip(parts, missing, strict=True)])

    _change_columns([batch.cache, other.cache], join)
    return _Batch(batch.rows + other.rows, columns("ids", pad_token_id), columns("mask", 0), batch.cache)


def _change_columns(caches: Sequence[DynamicCache], change: Callable[[list[torch.Tensor]], torch.Tensor]) -> None:
    """Set each layer's keys, and its values, in the first cache to `change` of those of all caches.

    They are [rows, heads, columns, dimension].
    """
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        # layers that use another's keys have none
        if layers[0].keys is not None:
            layers[0].keys = change([layer.keys for layer in layers])
            layers[0].values = change([layer.values for layer in layers])


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
