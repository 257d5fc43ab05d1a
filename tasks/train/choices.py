"""Turns the effective settings into transformers' and TRL's arguments, and into lines for the log and the report.

`configs.effective` decides the settings, for the plan and for training alike. If a config names something that the
device lacks, training falls back and does not fail; the line of that setting begins with "not here: ".
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass, replace

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.effective import kernels
from configs.effective import training as effective
from configs.effective.device import NOT_HERE, Architecture, Device, Setting
from configs.effective.numbers import precision
from configs.objectives import ONLINE, SCORING
from configs.schema import ModelConfig, TrainConfig
from configs.schema.cluster import DEEPSPEED, Sharding
from configs.wire import Choice
from tasks.models.this_device import this_device
from tasks.train.sharding import batch_line, sharding_lines, world_size

_EIGHT_BIT = {"adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}


@dataclass(frozen=True)
class Hardware:
    """The devices that train: this process's own, and how many there are."""

    device: Device
    num_processes: int = 1
    """Processes of the run, over all machines."""
    num_gpus: int = 0
    """GPUs that this process sees."""


@dataclass(frozen=True)
class Choices:
    """The effective settings as arguments of transformers and TRL; `lines` describes them for people."""

    bf16: bool
    attn_implementation: str | None
    """For `from_pretrained`; None leaves the choice to a model whose architecture transformers does not know."""
    gradient_checkpointing: bool
    optim: str
    use_liger_kernel: bool
    liger_kernel_config: dict[str, bool] | None
    torch_compile: bool
    activation_offloading: bool
    lines: tuple[Choice, ...]


def detect() -> Hardware:
    """Return the hardware of this process."""
    device = this_device()
    if device.is_gpu and device.has_compiler:
        # Liger's kernels are written in Triton, which is a GPU's compiler
        device = replace(device, liger_model_types=_liger_model_types())
    return Hardware(device, world_size(), torch.cuda.device_count() if device.is_gpu else 0)


@functools.cache
def _liger_model_types() -> frozenset[str]:
    if importlib.util.find_spec("liger_kernel") is None:
        return frozenset()
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    return frozenset(MODEL_TYPE_TO_APPLY_LIGER_FN)


def choose(
    config: TrainConfig, model_config: ModelConfig, hardware: Hardware, is_packed: bool, model_type: str
) -> Choices:
    """Return what training uses on `hardware`. `model_type` is the one in the model's config.json, such as `llama`."""
    device = hardware.device
    number_format = precision(config, device)
    bf16 = number_format.value == "bfloat16"
    attention = kernels.attention(model_config, device, architecture_of(model_type), bf16)
    checkpointing = effective.gradient_checkpointing(config, device)
    liger = kernels.liger(config, device, model_type)
    compiled = kernels.compiled(config, device)
    offload = kernels.activation_offload(config, device)
    optimizer = _optimizer(config, hardware)
    attention_word = attention.value or "the model's own"
    return Choices(
        bf16=bf16,
        attn_implementation=attention.value,
        gradient_checkpointing=checkpointing.value,
        optim=optimizer.value,
        use_liger_kernel=liger.value,
        # Liger's loss would replace the model's forward: TRL has its own, and a reward model has no head for it
        liger_kernel_config={"fused_linear_cross_entropy": False} if liger.value else None,
        torch_compile=compiled.value,
        activation_offloading=offload.value,
        lines=(
            Choice(name="device", value=device.name),
            Choice(name="precision", value=number_format.value, reason=number_format.reason),
            Choice(name="attention", value=attention_word, reason=attention.reason),
            _switch("gradient checkpointing", checkpointing),
            Choice(name="optimizer", value=optimizer.value, reason=optimizer.reason),
            _switch("Liger kernels", liger),
            _switch("torch.compile", compiled),
            _switch("activation offload", offload),
            _loss(config),
            _batching(config),
            _packing(device, is_packed),
            batch_line(config, hardware.num_processes),
            *sharding_lines(config, hardware.num_processes, hardware.num_gpus),
        ),
    )


def log_lines(choices: Choices) -> list[str]:
    """Return one line with the effective settings, then one line per setting that fell back."""
    in_effect = ", ".join(f"{line.name} {line.value}" for line in choices.lines if line.value != "off")
    fallen_back = [line for line in choices.lines if line.reason.startswith(NOT_HERE)]
    return [f"training with {in_effect}", *(f"{line.name} {line.value}: {line.reason}" for line in fallen_back)]


def architecture_of(model_type: str) -> Architecture:
    """Return what transformers' causal language model of this type says that it supports."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    model_class = getattr(transformers, name, None) if name else None
    if model_class is None:
        return Architecture(model_type, is_known=False, has_sdpa=False, has_flash_attention=False)
    return Architecture(
        model_type,
        has_sdpa=bool(getattr(model_class, "_supports_sdpa", False)),
        has_flash_attention=bool(getattr(model_class, "_supports_flash_attn", False)),
    )


def _optimizer(config: TrainConfig, hardware: Hardware) -> Setting[str]:
    """Return transformers' name of the optimizer in effect."""
    chosen, reason = effective.optimizer(config, hardware.device, hardware.num_processes)
    if chosen in _EIGHT_BIT:
        return Setting(_EIGHT_BIT[chosen], reason)
    name, why = _adamw(config, effective.sharding(config, hardware.num_processes).value)
    return Setting(name, why if config.efficiency.optimizer == "auto" else reason)


def _adamw(config: TrainConfig, in_effect: Sharding) -> Setting[str]:
    if in_effect in DEEPSPEED:
        offloaded = config.deepspeed.offload != "none"
        flat = "auto: DeepSpeed keeps the weights in one flat tensor"
        why = "auto: DeepSpeed's own, on the CPU" if offloaded else flat
        return Setting("adamw_torch", why)
    if in_effect == "tensor_parallel":
        return Setting("adamw_torch", "auto: the fused kernel does not take sharded and whole weights together")
    return Setting("adamw_torch_fused", "auto: one kernel for all weights")


def _loss(config: TrainConfig) -> Choice:
    if config.objective in SCORING:
        return Choice(name="loss", value="of scores", reason="a reward model has no vocabulary")
    reason = "log-probabilities are taken in tiles; logits of [batch, seq, vocabulary] are never held"
    return Choice(name="loss", value="memory-lean", reason=reason)


def _batching(config: TrainConfig) -> Choice:
    if config.objective in ONLINE:
        return Choice(name="batches", value="of prompts", reason="answers are generated while training")
    return Choice(name="batches", value="of like length" if config.group_by_length else "in random order")


def _packing(device: Device, is_packed: bool) -> Choice:
    costs = "slower on a CPU, where a packed row pays for attention between its examples; tokenize.packing=none is not"
    return _switch("packing", Setting(is_packed, costs if is_packed and not device.is_gpu else ""))


def _switch(name: str, setting: Setting[bool]) -> Choice:
    return Choice(name=name, value="on" if setting.value else "off", reason=setting.reason)
