"""The number formats in which a model's weights are loaded, and in which its layers compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from configs.effective.device import NOT_HERE, Device, Setting

if TYPE_CHECKING:
    from configs.schema import ModelConfig
    from configs.schema.train import TrainConfig

Precision = Literal["bfloat16", "float32"]
NumberFormat = Literal["float32", "bfloat16", "float16"]


def precision(train: TrainConfig, device: Device) -> Setting[Precision]:
    """Return whether layers compute under autocast to bfloat16, or in the format of their weights."""
    configured = train.efficiency.precision
    if configured == "float32":
        return Setting("float32")
    if configured == "bfloat16":
        why_not = "" if device.has_bfloat16 else f"{NOT_HERE}{device.name} does not compute in bfloat16"
        return Setting("bfloat16" if device.has_bfloat16 else "float32", why_not)
    if not device.is_gpu:
        return Setting("float32", "auto: bfloat16 is for GPUs")
    if device.has_bfloat16:
        return Setting("bfloat16", f"auto: {device.name} computes in bfloat16")
    return Setting("float32", f"auto: {device.name} does not compute in bfloat16")


def loaded_format(model: ModelConfig, device: Device) -> NumberFormat:
    """Return the format in which weights are loaded: as configured, or bfloat16 on a GPU that has it, else float32."""
    if model.dtype != "auto":
        return model.dtype
    return "bfloat16" if device.is_gpu and device.has_bfloat16 else "float32"


def trained_base_format(train: TrainConfig, model: ModelConfig, device: Device) -> NumberFormat:
    """Return the format in which training loads the base model.

    All weights are trained in float32 where `model.dtype` is auto: small updates vanish in 16-bit weights, and mixed
    precision keeps a 32-bit copy.
    """
    if train.method == "full" and model.dtype == "auto":
        return "float32"
    return loaded_format(model, device)


def computes_in_16_bits(train: TrainConfig, model: ModelConfig, device: Device) -> bool:
    """Return whether layers compute in 16 bits: under autocast, or because their weights have 16 bits."""
    is_16_bit_base = trained_base_format(train, model, device) != "float32"
    return is_16_bit_base or precision(train, device).value == "bfloat16"
