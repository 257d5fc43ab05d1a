"""Logits at chosen places of a sequence alone: with a large vocabulary, those of all places would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


def logits_before(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return [tokens, vocab] logits that predict the `wanted` tokens ([batch, seq] bool, none at position 0)."""
    before = torch.roll(wanted, -1, dims=1)
    head = model.get_output_embeddings()
    with _only(before, head):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    # virtual tokens may come before the sequence
    return logits[0] if head is not None else logits[:, -ids.shape[1] :][before]


@contextmanager
def _only(places: torch.Tensor, head: torch.nn.Module | None) -> Iterator[None]:
    """Within the block, pass the output head the hidden states at `places` alone, as [1, places, hidden].

    Models may change logits after the head, such as cap them; they do so one by one, and see no difference.
    """
    if head is None:
        yield
        return

    def select(module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        (hidden,) = arguments
        return (hidden[:, -places.shape[1] :][places.to(hidden.device)].unsqueeze(0),)

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()
