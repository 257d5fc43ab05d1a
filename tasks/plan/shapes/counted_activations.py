"""Counts the activation bytes that a layer saves for each token during training, in the real model without data.

PyTorch's memory tracker follows every tensor of transformers' own code, with the real widths and a few layers, so an
architecture needs no formula of its own. Fake tensors compute nothing and take no memory.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig

# enough tokens that memory which grows with tokens is larger than the gradient of any weight
_ROWS, _LENGTH, _MANY_ROWS = 2, 512, 32
# for models that go through a row token by token: as many tokens in a fraction of the steps
_SHORT = 8
LIMIT_SECONDS = 60.0
"""How long counting may take; transformers' code for a GPU kernel's work can take minutes without data."""
_COMPUTATIONS = ((torch.bfloat16, False), (torch.float32, True), (torch.float32, False))
_ATTENTION_DROPOUT = ("attention_dropout", "attn_pdrop", "attn_dropout", "attention_probs_dropout_prob")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class LayerActivations:
    """Bytes per token in one layer, each for 16-bit weights, for autocast over 32-bit weights, and for float32.

    `saved` is kept for the backward pass; `scores` is kept in addition for each position of the row; `temporary` are
    gradients of activations at the peak of the backward pass.
    """

    saved: Triple
    scores: Triple
    temporary: Triple


class CountingTooLongError(Exception):
    """Raised when counting has reached its time limit."""


class _BoundedTracker(MemTracker):
    """A memory tracker that stops at a time of the clock `time.monotonic`."""

    def __init__(self, deadline: float) -> None:
        super().__init__()
        self._deadline = deadline

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if time.monotonic() > self._deadline:
            raise CountingTooLongError
        return super().__torch_dispatch__(func, types, args, kwargs)


class OperationCount(TorchDispatchMode):
    """Within the block, counts PyTorch's operations in `num`."""

    num = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num += 1
        return func(*args, **(kwargs or {}))


def count_activations(config: PreTrainedConfig, kinds: Mapping[int, int], deadline: float) -> LayerActivations:
    """Return the activations of the average layer of `config`'s causal language model while all weights train.

    `kinds` maps the index of one layer of each kind, at least 1, to the number of layers of that kind. Rows have a
    mask, as padded and packed rows do. Attention dropout is switched off, because GPU kernels save nothing for it.

    `deadline` is a time of the clock `time.monotonic`.

    Raises:
        CountingTooLongError: the deadline has passed.
        RuntimeError, TypeError, ...: PyTorch's or transformers' error for a model that cannot run without data.
    """
    counted = [_count(config, kinds, dtype, is_autocast, deadline) for dtype, is_autocast in _COMPUTATIONS]
    saved, scores, temporary = zip(*counted, strict=True)
    return LayerActivations(saved, scores, temporary)


def count_16_bit_activations(config: PreTrainedConfig, kinds: Mapping[int, int], deadline: float) -> LayerActivations:
    """Return `count_activations` with the bytes of 16-bit weights doubled for autocast and for float32.

    It serves mixtures of experts: without data, PyTorch 2.13 runs their kernel in 16 bits only.
    """
    saved, scores, temporary = _count(config, kinds, *_COMPUTATIONS[0], deadline)
    return LayerActivations(
        (saved, 2 * saved, 2 * saved), (scores, 2 * scores, 2 * scores), (temporary,) + (2 * temporary,) * 2
    )


def _count(
    config: PreTrainedConfig, kinds: Mapping[int, int], dtype: torch.dtype, is_autocast: bool, deadline: float
) -> Triple:
    """Return the saved, score and temporary bytes per token."""
    saved = scores = 0.0
    with FakeTensorMode(), quiet():
        models = {layers: _model(config, layers, dtype) for index in kinds for layers in (index, index + 1)}
        deepest = models[max(models)]
        is_by_token = goes_token_by_token(deepest)
        for index, num_layers in kinds.items():

            def layer_bytes(rows: int, length: int, index: int = index) -> int:
                more, fewer = (
                    _saved_bytes(models[layers], rows, length, is_autocast, deadline) for layers in (index + 1, index)
                )
                return more - fewer

            layer_saved, layer_scores = (_fitted_by_three if is_by_token else _fitted_by_two)(layer_bytes)
            share = num_layers / sum(kinds.values())
            saved += share * layer_saved
            scores += share * layer_scores
        deepest.gradient_checkpointing_enable({"use_reentrant": False})
        length = _SHORT if is_by_token else _LENGTH
        rows = _MANY_ROWS * _LENGTH // length
        few_rows, many_rows = (_temporary_bytes(deepest, n, length, is_autocast, deadline) for n in (rows, 2 * rows))
    return saved, scores, (many_rows - few_rows) / (rows * length)


def goes_token_by_token(model: Any) -> bool:
    """Return whether a longer row takes more operations: the model then has a loop over the tokens of a row.

    Mamba's scan and RWKV's are such loops where their kernels for GPUs are missing. A row of 512 tokens takes hundreds
    of operations in each layer, and minutes to follow.
    """
    numbers = []
    for length in (_SHORT, 2 * _SHORT):
        with torch.no_grad(), OperationCount() as operations:
            _sum_of_outputs(model, 1, length, is_autocast=False)
        numbers.append(operations.num)
    return numbers[0] < numbers[1]


def _fitted_by_two(layer_bytes: Callable[[int, int], int]) -> tuple[float, float]:
    """Return a layer's bytes per token, and per token and position, from rows of two lengths."""
    tokens = _ROWS * _LENGTH
    base = layer_bytes(_ROWS, _LENGTH)
    # not growing with rows: 16-bit copies of weights under autocast, and token counts per expert
    fixed = 2 * base - layer_bytes(2 * _ROWS, _LENGTH)
    short, long = (base - fixed) / tokens, (layer_bytes(_ROWS, 2 * _LENGTH) - fixed) / (2 * tokens)
    return 2 * short - long, (long - short) / _LENGTH


def _fitted_by_three(layer_bytes: Callable[[int, int], int]) -> tuple[float, float]:
    """Return what `_fitted_by_two` does, from short rows of three lengths.

    In short rows what is saved once for a row counts too, such as a convolution's padding: the bytes of a row are
    a + b * length + c * length^2.
    """
    rows = _ROWS * _LENGTH // _SHORT
    first, second, fourth = (layer_bytes(rows, times * _SHORT) / rows for times in (1, 2, 4))
    c = (fourth - 3 * second + 2 * first) / (6 * _SHORT**2)
    return (second - first) / _SHORT - 3 * c * _SHORT, c


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries log and warn about a model that is only counted."""
    disabled_level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(disabled_level)


def _model(config: PreTrainedConfig, layers: int, dtype: torch.dtype) -> Any:
    config, all_layers = copy.deepcopy(config), config.num_hidden_layers
    for key, value in vars(config).items():
        # a list with one entry per layer, such as layer_types
        if isinstance(value, list) and len(value) == all_layers:
            setattr(config, key, value[:layers])
    config.num_hidden_layers, config.use_cache = layers, False
    for name in _ATTENTION_DROPOUT:
        if isinstance(getattr(config, name, None), float):
            setattr(config, name, 0.0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def _sum_of_outputs(model: Any, rows: int, length: int, is_autocast: bool) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
        return model.base_model(torch.zeros(rows, length, dtype=torch.long), use_cache=False)[0].sum()


def _saved_bytes(model: Any, rows: int, length: int, is_autocast: bool, deadline: float) -> int:
    tracker = _BoundedTracker(deadline)
    tracker.track_external(model)
    with tracker:
        loss = _sum_of_outputs(model, rows, length, is_autocast)
        saved = _bytes_of_kind(tracker.get_tracker_snapshot("current"), "ACT")
        del loss
    return saved


def _temporary_bytes(model: Any, rows: int, length: int, is_autocast: bool, deadline: float) -> int:
    model.zero_grad()
    tracker = _BoundedTracker(deadline)
    tracker.track_external(model)
    with tracker:
        _sum_of_outputs(model, rows, length, is_autocast).backward()
    return _bytes_of_kind(tracker.get_tracker_snapshot("peak"), "TEMP")


def _bytes_of_kind(snapshot: dict[Any, dict[Any, int]], kind: str) -> int:
    (device_snapshot,) = snapshot.values()
    return next(count for name, count in device_snapshot.items() if str(name).endswith(kind))
