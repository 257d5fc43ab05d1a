"""Bytes that layers keep for the backward pass: to the byte what autograd saves in a real Llama."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest
from support.plan_inputs import LLAMA_2_7B

from tasks.plan.memory.activations import (
    checkpoint_bytes,
    gradient_temporaries_bytes,
    layer_activation_bytes,
)
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.shapes.shape import ModelShape

SMALL = ModelShape("small", 256, 4, 8, 2, 704, 100)
ROWS, LENGTH, RANK = 2, 64, 3


@pytest.mark.parametrize("length", [128, 129])
def test_activations_are_linear_in_tokens(length: int) -> None:
    job = TrainingJob(LLAMA_2_7B, "zero2", length=length)
    assert layer_activation_bytes(replace(job, micro_batch=2)) == 2 * layer_activation_bytes(job)


COMPUTATIONS = {
    # method, sharding, precision, the type of the base
    "16-bit weights": ("full", "zero2", "bfloat16", "bfloat16"),
    "autocast": ("full", "none", "bfloat16", "float32"),
    "32 bits": ("full", "none", "float32", "float32"),
    "lora": ("lora", "none", "bfloat16", "bfloat16"),
    "lora in 32 bits": ("lora", "none", "float32", "float32"),
    "virtual tokens": ("prompt_tuning", "none", "bfloat16", "bfloat16"),
    "virtual tokens in 32 bits": ("prompt_tuning", "none", "float32", "float32"),
}


@pytest.mark.parametrize("has_padding", [False, True])
@pytest.mark.parametrize("name", list(COMPUTATIONS))
def test_activation_bytes_of_a_layer_equal_what_autograd_saves(name: str, has_padding: bool) -> None:
    """A layer is half the difference between models of 4 and 2 layers; copies of weights do not count."""
    method, sharding, precision, dtype = COMPUTATIONS[name]
    job = TrainingJob(
        SMALL,
        sharding,  # type: ignore[arg-type]
        method,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        lora_rank=RANK,
        micro_batch=ROWS,
        length=LENGTH,
        has_padding=has_padding,
    )
    two, four = (saved(layers, method, precision, dtype, has_padding) for layers in (2, 4))
    assert (four - two) / 2 == layer_activation_bytes(job)


def saved(layers: int, method: str, precision: str, dtype: str, has_padding: bool) -> int:
    """Return the bytes of the tensors, except weights, that autograd saves in a forward pass."""
    import peft
    import torch
    from transformers import LlamaModel

    torch.manual_seed(0)
    model: Any = LlamaModel(llama(layers)).to(getattr(torch, dtype)).train()
    if method == "lora":
        model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules="all-linear"))
    for parameter in model.parameters():
        if method == "prompt_tuning":
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            parameter.data = parameter.data.float() if method == "lora" else parameter.data
    weights = {parameter.shape for parameter in model.parameters()}
    weights |= {shape[::-1] for shape in weights if len(shape) == 2}
    storages: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape not in weights:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    mask = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask[0, -5:] = 0 if has_padding else 1
    inputs = {"input_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long)}
    if method == "prompt_tuning":
        inputs = {"inputs_embeds": torch.randn(ROWS, LENGTH, SMALL.hidden, requires_grad=True)}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        model(**inputs, attention_mask=mask)
    return sum(storage.nbytes() for storage in storages.values())


def llama(layers: int) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=SMALL.hidden,
        intermediate_size=SMALL.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=SMALL.heads,
        num_key_value_heads=SMALL.key_value_heads,
        vocab_size=SMALL.vocabulary,
        use_cache=False,
    )


@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "bfloat16"), ("float32", "bfloat16"), ("float32",) * 2])
def test_checkpoint_and_gradient_bytes_equal_those_of_pytorchs_tracker(dtype: str, precision: Any) -> None:
    """On fake tensors, with gradient checkpointing: what a layer keeps, and the peak of temporary gradients."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import LlamaModel

    kept, tokens = [], 2 * 512
    for layers in (2, 4):
        before = torch.get_default_dtype()
        with FakeTensorMode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.set_default_dtype(getattr(torch, dtype))
            try:
                model = LlamaModel(llama(layers)).train()
            finally:
                torch.set_default_dtype(before)
            model.gradient_checkpointing_enable({"use_reentrant": False})
            tracker = MemTracker()
            tracker.track_external(model)
            with tracker:
                with torch.autocast("cpu", torch.bfloat16, enabled=precision != dtype):
                    loss = model(torch.zeros(2, 512, dtype=torch.long)).last_hidden_state.sum()
                kept.append(bytes_of_kind(tracker.get_tracker_snapshot("current"), "ACT"))
                loss.backward()
            temporary = bytes_of_kind(tracker.get_tracker_snapshot("peak"), "TEMP")
    bits = 16 if dtype == "bfloat16" else 32
    job = TrainingJob(SMALL, "zero2" if bits == 16 else "none", precision=precision, micro_batch=2, length=512)
    assert (kept[1] - kept[0]) / 2 == checkpoint_bytes(job)
    assert temporary == gradient_temporaries_bytes(SMALL, tokens, bits, precision)


def bytes_of_kind(snapshot: Any, kind: str) -> int:
    (of_device,) = snapshot.values()
    return next(count for name, count in of_device.items() if str(name).endswith(kind))
