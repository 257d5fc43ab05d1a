"""Which kernels training runs: attention, Liger's, compiled ones; and whether activations wait in host memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.effective.device import NOT_HERE, Architecture, Device, Setting
from configs.objectives import ONLINE

if TYPE_CHECKING:
    from configs.schema import ModelConfig
    from configs.schema.train import TrainConfig


def attention(
    model: ModelConfig, device: Device, architecture: Architecture, computes_in_16_bits: bool
) -> Setting[str | None]:
    """Return the attention kernel for `from_pretrained`; None leaves the choice to a model with its own code."""
    configured, reason = model.attn_implementation, ""
    if configured in ("auto", "flash_attention_2"):
        why_not = _why_no_flash_attention(device, architecture, computes_in_16_bits)
        if why_not is None:
            return Setting("flash_attention_2", "" if configured != "auto" else "auto: flash-attn is installed")
        reason = f"auto: flash-attn {why_not}" if configured == "auto" else f"{NOT_HERE}flash-attn {why_not}"
    if not architecture.is_known:
        # a model with its own code chooses its own kernels
        return Setting(configured if configured in ("eager", "sdpa") else None, reason)
    if configured == "sdpa" and not architecture.has_sdpa:
        reason = f"{NOT_HERE}{architecture.model_type} has no sdpa"
    return Setting("eager" if configured == "eager" or not architecture.has_sdpa else "sdpa", reason)


def _why_no_flash_attention(device: Device, architecture: Architecture, computes_in_16_bits: bool) -> str | None:
    if not device.is_gpu:
        return "needs a GPU"
    if not device.has_flash_attention:
        return "is not installed"
    if not computes_in_16_bits:
        return "computes in 16 bits, and training does not"
    if not (architecture.is_known and architecture.has_flash_attention):
        return "is not supported by the architecture"
    return None


def liger(train: TrainConfig, device: Device, model_type: str) -> Setting[bool]:
    """Return whether Liger's fused norm, rotary and MLP kernels replace the model's own."""
    if train.efficiency.kernels == "off":
        return Setting(False)
    if not device.is_gpu:
        return Setting(False, "auto: for GPUs")
    if not device.liger_model_types:
        return Setting(False, f"{NOT_HERE}liger-kernel is not installed")
    if model_type not in device.liger_model_types:
        return Setting(False, f"{NOT_HERE}Liger does not know {model_type}")
    return Setting(True, f"auto: norm, rotary and MLP of {model_type}")


def compiled(train: TrainConfig, device: Device) -> Setting[bool]:
    """Return whether torch.compile compiles the model."""
    if not train.efficiency.compile:
        return Setting(False)
    if not device.has_compiler:
        return Setting(False, f"{NOT_HERE}needs {'Triton' if device.is_gpu else 'a C++ compiler'}")
    return Setting(True)


def activation_offload(train: TrainConfig, device: Device) -> Setting[bool]:
    """Return whether activations wait in host memory for the backward pass."""
    if not train.efficiency.activation_offload:
        return Setting(False)
    if not device.is_gpu:
        return Setting(False, f"{NOT_HERE}needs a GPU")
    if train.objective in ONLINE:
        return Setting(False, f"{NOT_HERE}TRL's trainer of {train.objective} does not have it")
    return Setting(True)
