"""What a layer keeps of each token while it trains, counted in the real model on tensors without data.

PyTorch's own memory tracker follows every tensor of transformers' code, with the real widths and few layers, so that
an architecture needs no formula of its own. Nothing is computed, and no memory is taken.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import AutoModelForCausalLM, PreTrainedConfig

# rows so many and long that what grows with tokens is larger than any gradient of a weight
_ROWS, _LENGTH, _MANY_ROWS = 2, 512, 32
_COMPUTATIONS = ((torch.bfloat16, False), (torch.float32, True), (torch.float32, False))
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LayerActivations:
    """Bytes of a token in one layer, for 16-bit weights, autocast over 32-bit weights, and float32.

    `saved` is kept for the backward pass, and `scores` more for each position of the row; `temporary` are gradients of
    activations at the fullest moment of that pass.
    """

    saved: Triple
    scores: Triple
    temporary: Triple


def count_activations(config: PreTrainedConfig, kinds: Mapping[int, int]) -> LayerActivations:
    """Return what the average layer of the causal language model of `config` keeps while all weights train.

    `kinds` has the place of one layer of each kind, from 1 on, and how many there are. Rows have a mask, as padded and
    packed rows do; attention's own dropout is left out, for which GPU kernels keep nothing.

    Raises:
        RuntimeError, TypeError, ...: what PyTorch and transformers raise of a model that needs data to run.
    """
    counted = [_count(config, kinds, dtype, is_autocast) for dtype, is_autocast in _COMPUTATIONS]
    saved, scores, temporary = zip(*counted, strict=True)
    return LayerActivations(saved, scores, temporary)


def count_16_bit_activations(config: PreTrainedConfig, kinds: Mapping[int, int]) -> LayerActivations:
    """Return `count_activations` with twice the bytes of 16-bit weights for both computations over 32-bit ones.

    For mixtures of experts, whose kernel PyTorch 2.13 describes without data in 16 bits only.
    """
    saved, scores, temporary = _count(config, kinds, *_COMPUTATIONS[0])
    return LayerActivations(
        (saved, 2 * saved, 2 * saved), (scores, 2 * scores, 2 * scores), (temporary,) + (2 * temporary,) * 2
    )


def _count(config: PreTrainedConfig, kinds: Mapping[int, int], dtype: torch.dtype, is_autocast: bool) -> Triple:
    """Return saved, score and temporary bytes of a token."""
    tokens = _ROWS * _LENGTH
    saved = scores = 0.0
    with FakeTensorMode(), quiet():
        models = {layers: _model(config, layers, dtype) for place in kinds for layers in (place, place + 1)}
        for place, num_layers in kinds.items():

            def of_rows(rows: int, length: int, place: int = place) -> int:
                more, fewer = (_saved(models[layers], rows, length, is_autocast) for layers in (place + 1, place))
                return more - fewer

            base = of_rows(_ROWS, _LENGTH)
            # what does not grow with rows: 16-bit copies of weights under autocast, and counts of experts' tokens
            fixed = 2 * base - of_rows(2 * _ROWS, _LENGTH)
            short, long = (base - fixed) / tokens, (of_rows(_ROWS, 2 * _LENGTH) - fixed) / (2 * tokens)
            share = num_layers / sum(kinds.values())
            scores += share * (long - short) / _LENGTH
            saved += share * (2 * short - long)
        last = models[max(models)]
        last.gradient_checkpointing_enable({"use_reentrant": False})
        few, many = (_temporary(last, rows, is_autocast) for rows in (_MANY_ROWS, 2 * _MANY_ROWS))
    return saved, scores, (many - few) / (_MANY_ROWS * _LENGTH)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what libraries say of a model that will not be used."""
    loud = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(loud)


def _model(config: PreTrainedConfig, layers: int, dtype: torch.dtype) -> Any:
    config, before = copy.deepcopy(config), config.num_hidden_layers
    for key, value in vars(config).items():
        # kinds of layers, one word for each
        if isinstance(value, list) and len(value) == before:
            setattr(config, key, value[:layers])
    config.num_hidden_layers, config.use_cache = layers, False
    for name in _ATTENTION_DROPOUT:
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def _run(model: Any, rows: int, length: int, is_autocast: bool) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        return model.base_model(torch.zeros(rows, length, dtype=torch.long), use_cache=False)[0].sum()


def _saved(model: Any, rows: int, length: int, is_autocast: bool) -> int:
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        loss = _run(model, rows, length, is_autocast)
        found = _of_kind(tracker.get_tracker_snapshot("current"), "ACT")
        del loss
    return found


def _temporary(model: Any, rows: int, is_autocast: bool) -> int:
    model.zero_grad()
    tracker = MemTracker()
    tracker.track_external(model)
    with tracker:
        _run(model, rows, _LENGTH, is_autocast).backward()
    return _of_kind(tracker.get_tracker_snapshot("peak"), "TEMP")


def _of_kind(snapshot: dict[Any, dict[Any, int]], kind: str) -> int:
    (of_device,) = snapshot.values()
    return next(count for name, count in of_device.items() if str(name).endswith(kind))
