"""Progress of loading a model, which takes minutes for a large one: weights loaded of all."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils.logging import set_tqdm_hook

from tasks.models.pace import counting

# the description of transformers' own progress bar
_LOADING = "Loading weights"


@contextmanager
def counted_loading(what: str) -> Iterator[None]:
    """Within the block, count the weights that are loaded under the name `what`; a terminal keeps transformers' bar."""

    def hook(bar: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if sys.stderr.isatty() or kwargs.get("desc") != _LOADING or not args:
            return bar(*args, **kwargs)
        return _counted(what, args[0])

    previous = set_tqdm_hook(hook)
    try:
        yield
    finally:
        set_tqdm_hook(previous)


def _counted(what: str, weights: Iterable[Any]) -> Iterator[Any]:
    all_weights = list(weights)
    with counting(what, len(all_weights), "weights") as count:
        for weight in all_weights:
            yield weight
            count.add(1)
