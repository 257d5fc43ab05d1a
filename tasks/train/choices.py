"""Which precision, kernels and optimizer training really uses, and why: the config's wish against what is here.

`choose` is pure, so that what a GPU of another kind would get is known without one. What a config asks for by name and
the device lacks is left out, never an error, and its line begins with "not here: ".
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from configs.objectives import SCORING
from configs.schema import ModelConfig, TrainConfig
from configs.schema.cluster import DEEPSPEED, FSDP
from configs.schema.train import ONLINE
from configs.wire import Choice
from tasks.train.sharding import NOT_HERE, batch_line, effective, sharding_lines, world_size

_EIGHT_BIT = {"adamw_8bit": "adamw_bnb_8bit", "paged_adamw_8bit": "paged_adamw_8bit"}


@dataclass(frozen=True)
class Hardware:
    """The device that trains, and what is installed for it."""

    device: Literal["cpu", "cuda"]
    name: str
    has_bfloat16: bool
    """Computed by the device itself, not emulated."""
    has_flash_attention: bool = False
    liger_model_types: frozenset[str] = frozenset()
    """Architectures that the installed Liger has kernels for; empty without Liger."""
    has_bitsandbytes: bool = False
    has_compiler: bool = False
    """What torch.compile builds kernels with: Triton for a GPU, a C++ compiler for a CPU."""
    num_processes: int = 1
    """Processes of the run, over all machines."""
    num_gpus: int = 0
    """GPUs that this process sees."""


@dataclass(frozen=True)
class Choices:
    """What is in effect, in the words of transformers' and TRL's arguments; `lines` says it for people."""

    bf16: bool
    attn_implementation: str | None
    """For `from_pretrained`; None leaves it to transformers, whose tables do not have the architecture."""
    gradient_checkpointing: bool
    optim: str
    use_liger_kernel: bool
    liger_kernel_config: dict[str, bool] | None
    torch_compile: bool
    activation_offloading: bool
    lines: tuple[Choice, ...]


def detect() -> Hardware:
    """Return what this process has."""
    has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
    if not torch.cuda.is_available():
        return Hardware(
            device="cpu",
            name="CPU",
            has_bfloat16=torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
            has_bitsandbytes=has_bitsandbytes,
            has_compiler=any(shutil.which(name) for name in ("c++", "g++", "clang++")),
            num_processes=world_size(),
        )
    has_triton = importlib.util.find_spec("triton") is not None
    return Hardware(
        device="cuda",
        name=torch.cuda.get_device_name(),
        # by default, torch answers for emulation too, which is slower than float32
        has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        has_flash_attention=importlib.util.find_spec("flash_attn") is not None,
        liger_model_types=_liger_model_types() if has_triton else frozenset(),
        has_bitsandbytes=has_bitsandbytes,
        has_compiler=has_triton,
        num_processes=world_size(),
        num_gpus=torch.cuda.device_count(),
    )


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
    bf16, precision = _precision(config, hardware)
    attention, attention_line = _attention(model_config, hardware, model_type, bf16)
    checkpointing, checkpointing_line = _gradient_checkpointing(config, hardware)
    optim, optimizer = _optimizer(config, hardware)
    liger, kernels = _kernels(config, hardware, model_type)
    compiled, compile_line = _compile(config, hardware)
    offload, offload_line = _activation_offload(config, hardware)
    return Choices(
        bf16=bf16,
        attn_implementation=attention,
        gradient_checkpointing=checkpointing,
        optim=optim,
        use_liger_kernel=liger,
        # Liger's loss would replace the model's forward: TRL has its own, and a reward model has no head for it
        liger_kernel_config={"fused_linear_cross_entropy": False} if liger else None,
        torch_compile=compiled,
        activation_offloading=offload,
        lines=(
            Choice(name="device", value=hardware.name),
            precision,
            attention_line,
            checkpointing_line,
            optimizer,
            kernels,
            compile_line,
            offload_line,
            _loss(config),
            _batching(config),
            _packing(hardware, is_packed),
            batch_line(config, hardware.num_processes),
            *sharding_lines(config, hardware.num_processes, hardware.num_gpus),
        ),
    )


def log_lines(choices: Choices) -> list[str]:
    """Return one line of all that is in effect, then one for each thing asked for that is not here."""
    effective = ", ".join(f"{line.name} {line.value}" for line in choices.lines if line.value != "off")
    fallen_back = [line for line in choices.lines if line.reason.startswith(NOT_HERE)]
    return [f"training with {effective}", *(f"{line.name} {line.value}: {line.reason}" for line in fallen_back)]


def _precision(config: TrainConfig, hardware: Hardware) -> tuple[bool, Choice]:
    wish = config.efficiency.precision
    if wish == "float32":
        return False, Choice(name="precision", value="float32")
    if wish == "bfloat16":
        reason = "" if hardware.has_bfloat16 else f"{NOT_HERE}{hardware.name} does not compute in bfloat16"
        return hardware.has_bfloat16, _choice("precision", hardware.has_bfloat16, reason, "bfloat16", "float32")
    if hardware.device == "cpu":
        return False, Choice(name="precision", value="float32", reason="auto: bfloat16 is for GPUs")
    has = "computes" if hardware.has_bfloat16 else "does not compute"
    reason = f"auto: {hardware.name} {has} in bfloat16"
    return hardware.has_bfloat16, _choice("precision", hardware.has_bfloat16, reason, "bfloat16", "float32")


def _attention(model_config: ModelConfig, hardware: Hardware, model_type: str, bf16: bool) -> tuple[str | None, Choice]:
    wish = model_config.attn_implementation
    architecture = _architecture(model_type)
    has_sdpa = bool(getattr(architecture, "_supports_sdpa", False))
    reason = ""
    if wish in ("auto", "flash_attention_2"):
        lacking = _why_no_flash_attention(hardware, architecture, bf16)
        if lacking is None:
            return "flash_attention_2", Choice(
                name="attention", value="flash_attention_2", reason="" if wish != "auto" else "auto: flash-attn is here"
            )
        reason = f"auto: flash-attn {lacking}" if wish == "auto" else f"{NOT_HERE}flash-attn {lacking}"
    if wish == "sdpa" and architecture is not None and not has_sdpa:
        reason = f"{NOT_HERE}{model_type} has no sdpa"
    if architecture is None:
        # a model with code of its own, which knows its kernels
        chosen = wish if wish in ("eager", "sdpa") else None
        return chosen, Choice(name="attention", value=chosen or "the model's own", reason=reason)
    chosen = "eager" if wish == "eager" or not has_sdpa else "sdpa"
    return chosen, Choice(name="attention", value=chosen, reason=reason)


def _why_no_flash_attention(hardware: Hardware, architecture: Any, bf16: bool) -> str | None:
    if hardware.device == "cpu":
        return "needs a GPU"
    if not hardware.has_flash_attention:
        return "is not installed"
    if not bf16:
        return "computes in 16 bits, and training does not"
    if not getattr(architecture, "_supports_flash_attn", False):
        return "is not known to the architecture"
    return None


def _architecture(model_type: str) -> Any:
    """Return transformers' class of the causal language model, whose attributes say what it supports, or None."""
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(model_type)
    return getattr(transformers, name, None) if name else None


def _gradient_checkpointing(config: TrainConfig, hardware: Hardware) -> tuple[bool, Choice]:
    wish = config.efficiency.gradient_checkpointing
    name = "gradient checkpointing"
    if wish == "off" or (wish == "auto" and hardware.device == "cpu"):
        return False, _choice(name, False, "" if wish == "off" else "auto: slower, and a CPU has memory")
    if config.method == "prefix_tuning":
        # the layers drop past_key_values when they are to be computed again, and the prefix with them
        why = "a prefix is lost where layers are computed again"
        return False, _choice(name, False, f"auto: {why}" if wish == "auto" else f"{NOT_HERE}{why}")
    return True, _choice(name, True, "" if wish == "on" else "auto: saves memory on a GPU")


def _optimizer(config: TrainConfig, hardware: Hardware) -> tuple[str, Choice]:
    wish, word = config.efficiency.optimizer, effective(config, hardware.num_processes)
    lacking = _why_not_8_bit(config, hardware, word)
    if wish in _EIGHT_BIT and not lacking:
        if wish == "paged_adamw_8bit" and hardware.device == "cpu":
            reason = f"{NOT_HERE}only GPU memory is paged; the states are in 8 bits all the same"
            return "adamw_bnb_8bit", Choice(name="optimizer", value="adamw_bnb_8bit", reason=reason)
        return _EIGHT_BIT[wish], Choice(name="optimizer", value=_EIGHT_BIT[wish])
    chosen, reason = "adamw_torch_fused", "auto: one kernel for all weights"
    if word in DEEPSPEED:
        offloaded = config.deepspeed.offload != "none"
        reason = "auto: DeepSpeed's own, on the CPU" if offloaded else "auto: DeepSpeed has the weights flat"
        chosen = "adamw_torch"
    elif word == "tensor_parallel":
        chosen, reason = "adamw_torch", "auto: divided and whole weights do not go into one kernel"
    if wish in _EIGHT_BIT:
        reason = f"{NOT_HERE}{lacking}"
    return chosen, Choice(name="optimizer", value=chosen, reason="" if wish == "adamw" else reason)


def _why_not_8_bit(config: TrainConfig, hardware: Hardware, word: str) -> str:
    if not hardware.has_bitsandbytes:
        return "bitsandbytes is not installed"
    if word in (*FSDP, "tensor_parallel"):
        return f"bitsandbytes cannot step weights that {word} divides"
    if word in DEEPSPEED and config.deepspeed.offload != "none":
        return "DeepSpeed steps what is in host memory with its own AdamW"
    return ""


def _kernels(config: TrainConfig, hardware: Hardware, model_type: str) -> tuple[bool, Choice]:
    if config.efficiency.kernels == "off":
        return False, _choice("Liger kernels", False)
    if hardware.device == "cpu":
        return False, _choice("Liger kernels", False, "auto: for GPUs")
    if not hardware.liger_model_types:
        return False, _choice("Liger kernels", False, f"{NOT_HERE}liger-kernel is not installed")
    if model_type not in hardware.liger_model_types:
        return False, _choice("Liger kernels", False, f"{NOT_HERE}Liger does not know {model_type}")
    return True, _choice("Liger kernels", True, f"auto: norm, rotary and MLP of {model_type}")


def _compile(config: TrainConfig, hardware: Hardware) -> tuple[bool, Choice]:
    if not config.efficiency.compile:
        return False, _choice("torch.compile", False)
    if not hardware.has_compiler:
        lacking = "Triton" if hardware.device == "cuda" else "a C++ compiler"
        return False, _choice("torch.compile", False, f"{NOT_HERE}needs {lacking}")
    return True, _choice("torch.compile", True)


def _activation_offload(config: TrainConfig, hardware: Hardware) -> tuple[bool, Choice]:
    name = "activation offload"
    if not config.efficiency.activation_offload:
        return False, _choice(name, False)
    if hardware.device == "cpu":
        return False, _choice(name, False, f"{NOT_HERE}needs a GPU to spare the memory of")
    if config.objective in ONLINE:
        return False, _choice(name, False, f"{NOT_HERE}TRL's trainer of {config.objective} does not have it")
    return True, _choice(name, True)


def _loss(config: TrainConfig) -> Choice:
    if config.objective in SCORING:
        return Choice(name="loss", value="of scores", reason="a reward model has no vocabulary")
    reason = "log-probabilities are taken in tiles; logits of [batch, seq, vocabulary] are never held"
    return Choice(name="loss", value="memory-lean", reason=reason)


def _batching(config: TrainConfig) -> Choice:
    if config.objective in ONLINE:
        return Choice(name="batches", value="of prompts", reason="answers are generated while training")
    return Choice(name="batches", value="of like length" if config.group_by_length else "in random order")


def _packing(hardware: Hardware, is_packed: bool) -> Choice:
    costs = "slower on a CPU, where a packed row pays for attention between its examples; tokenize.packing=none is not"
    return _choice("packing", is_packed, costs if is_packed and hardware.device == "cpu" else "")


def _choice(name: str, is_on: bool, reason: str = "", on: str = "on", off: str = "off") -> Choice:
    return Choice(name=name, value=on if is_on else off, reason=reason)
