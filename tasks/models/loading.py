"""Counts the weights that transformers loads, or quantizes as it loads them: minutes for a large model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook

from tasks.models.pace import counting

# what transformers calls its bar over the weights
_LOADING = "Loading weights"


@contextmanager
def counted_loading(what: str) -> Iterator[None]:
    """Within the block, weights that are loaded count as `what` is done; a terminal keeps transformers' own bar."""

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if sys.stderr.isatty() or kwargs.get("desc") != _LOADING or not args:
            return bar(*args, **kwargs)
        return _counted(what, args[0])

    before = set_tqdm_hook(hook)
    try:
        yield
    finally:
        set_tqdm_hook(before)


def _counted(what: str, weights: Iterable[Any]) -> Iterator[Any]:
    each = list(weights)
    with counting(what, len(each), "weights") as count:
        for weight in each:
            yield weight
            count.add(1)
