"""What an effective setting depends on besides the config, and the type that holds one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

Value = TypeVar("Value")

NOT_HERE = "not here: "
"""Begins the reason of a setting that the config asks for by name, but the device or the run does not support."""


class Setting(NamedTuple, Generic[Value]):
    """A value in effect, and why. The reason begins with `auto: ` if the config left the choice open, and with
    `NOT_HERE` if the config asked for something else; it is empty if the config got what it asked for."""

    value: Value
    reason: str = ""


@dataclass(frozen=True)
class Device:
    """One GPU, or a CPU, and what is installed for it."""

    kind: Literal["cpu", "gpu"]
    name: str
    has_bfloat16: bool
    """Whether the device computes in bfloat16 itself; emulation is slower than float32."""
    has_bitsandbytes: bool = True
    has_flash_attention: bool = False
    liger_model_types: frozenset[str] = frozenset()
    """Architectures that the installed Liger has kernels for; empty without Liger."""
    has_compiler: bool = False
    """Whether torch.compile can build kernels: with Triton for a GPU, with a C++ compiler for a CPU."""

    @property
    def is_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.kind == "gpu"


PLAIN_CPU = Device("cpu", "CPU", has_bfloat16=False)
"""A CPU that computes in float32 only."""


@dataclass(frozen=True)
class Architecture:
    """What transformers' class for a model supports. `is_known` is False for a model with its own code."""

    model_type: str
    """`model_type` in the model's config.json, such as `llama`."""
    is_known: bool = True
    has_sdpa: bool = True
    has_flash_attention: bool = True
