"""Checks how much of a model bitsandbytes can quantize, before anything is computed.

transformers replaces only plain linear layers. It leaves variants such as Falcon's, and the experts of a mixture, which
transformers 5 stores as parameters, in 16 bits: a copy "in 4 bits" may then be as large as the model.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.artifacts import QUANTIZATIONS, QuantizationMethod
from configs.effective.four_bit import is_plain_kernel_right, wrong_widths
from configs.errors import ConfigError
from configs.linear_weights import listed
from configs.schema import FineTuneConfig
from tasks.plan.checks.preflight import Answer, Finding, Question, answer
from tasks.plan.checks.settings import QUANTIZED_BASES
from tasks.plan.hardware.target import Target
from tasks.plan.hardware.this_machine import cpu_has_avx512
from tasks.plan.shapes.shape import ModelShape


@dataclass(frozen=True)
class _Quantization:
    """A setting that quantizes with bitsandbytes: the name of its check, itself as messages name it, and the fix."""

    check: str
    setting: str
    fix: str
    methods: list[QuantizationMethod]


def share_answers(prefix: str, config: FineTuneConfig, shape: ModelShape, local: Target | None) -> list[Answer]:
    """Return the answers to whether enough of the model is quantized, one for each setting that asks for it."""
    return answer(
        [
            Question(f"{prefix}{asked.check}", lambda asked=asked: Finding(_share(asked, config, shape, local)))  # type: ignore[misc]
            for asked in _quantizations(config)
        ]
    )


def check_quantized_share(config: FineTuneConfig, shape: ModelShape, local: Target | None) -> str:
    """Return which share of the linear weights is quantized, by the setting that asks for it; empty if none does.

    `local` is this machine if the run stays on it. gptqmodel's methods have rules of their own, and are not checked.

    Raises:
        ConfigError: less than `quantize.min_share` can be quantized, or layers have widths that a CPU's kernel for 4
            bits unpacks wrongly.
    """
    return "; ".join(_share(asked, config, shape, local) for asked in _quantizations(config))


def _share(asked: _Quantization, config: FineTuneConfig, shape: ModelShape, local: Target | None) -> str:
    weights, min_share = shape.quantizable, config.quantize.min_share
    if not weights.is_enough(min_share):
        raise ConfigError(weights.refusal(asked.setting, config.model.name, min_share, asked.fix))
    if "4bit" in asked.methods and local is not None and not local.is_gpu and cpu_has_avx512():
        setting = asked.setting.replace(listed(asked.methods), "4bit")
        _check_widths(setting, shape)
    return f"{asked.setting.replace('names ', '')}: {weights.share:.1%} of the linear weights"


def _quantizations(config: FineTuneConfig) -> list[_Quantization]:
    found = []
    methods = [name for name in config.quantize.methods if QUANTIZATIONS[name].library == "bitsandbytes"]
    others = [name for name in config.quantize.methods if name not in methods]
    lower = "or lower quantize.min_share"
    if methods:
        fix = f"set quantize.methods=[{', '.join(others)}], {lower}"
        found.append(_Quantization("quantized share", f"quantize.methods names {listed(methods)}", fix, methods))
    if config.train.method in QUANTIZED_BASES:
        fix, bits = f"use train.method=lora, {lower}", QUANTIZED_BASES[config.train.method]
        found.append(_Quantization("quantized base", f"train.method={config.train.method}", fix, [bits]))
    if config.evaluate.load_in == "4bit":
        fix = f"divide the model with evaluate.gpus, {lower}"
        found.append(_Quantization("4-bit evaluation", "evaluate.load_in=4bit", fix, ["4bit"]))
    return found


def _check_widths(setting: str, shape: ModelShape) -> None:
    rows = {linear.inputs for linear in shape.linear_maps if linear.is_quantized}
    if wrong := sorted(width for width in rows if not is_plain_kernel_right(width)):
        raise ConfigError(wrong_widths(setting, wrong))
