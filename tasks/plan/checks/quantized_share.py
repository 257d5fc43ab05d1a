"""Checks how much of a model bitsandbytes can quantize, before anything is computed.

transformers replaces only plain linear layers. It leaves variants such as Falcon's, and the experts of a mixture, which
transformers 5 stores as parameters, in 16 bits: a copy "in 4 bits" may then be as large as the model.
"""

from __future__ import annotations

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

SHARE_CHECK = "quantized share"


def share_answers(prefix: str, config: FineTuneConfig, shape: ModelShape, local: Target | None) -> list[Answer]:
    """Return the answer to whether enough of the model is quantized; none if the config quantizes nothing."""
    if not _quantizations(config):
        return []
    return answer([Question(f"{prefix}{SHARE_CHECK}", lambda: Finding(check_quantized_share(config, shape, local)))])


def check_quantized_share(config: FineTuneConfig, shape: ModelShape, local: Target | None) -> str:
    """Return which share of the linear weights is quantized, by the setting that asks for it; empty if none does.

    `local` is this machine if the run stays on it. gptqmodel's methods have rules of their own, and are not checked.

    Raises:
        ConfigError: less than `quantize.min_share` can be quantized, or layers have widths that a CPU's kernel for 4
            bits unpacks wrongly.
    """
    weights, min_share, found = shape.quantizable, config.quantize.min_share, []
    for setting, fix, methods in _quantizations(config):
        if not weights.is_enough(min_share):
            raise ConfigError(weights.refusal(setting, config.model.name, min_share, fix))
        if "4bit" in methods and local is not None and not local.is_gpu and cpu_has_avx512():
            _check_widths(f"{setting.partition(' ')[0]} names 4bit" if methods[1:] else setting, shape)
        found.append(f"{setting.replace('names ', '')}: {weights.share:.1%} of the linear weights")
    return "; ".join(found)


def _quantizations(config: FineTuneConfig) -> list[tuple[str, str, list[QuantizationMethod]]]:
    """Return the settings that quantize with bitsandbytes, as messages name them, with the fix and the methods."""
    found = []
    methods = [name for name in config.quantize.methods if QUANTIZATIONS[name].library == "bitsandbytes"]
    others = [name for name in config.quantize.methods if name not in methods]
    lower = "or lower quantize.min_share"
    if methods:
        fix = f"set quantize.methods=[{', '.join(others)}], {lower}"
        found.append((f"quantize.methods names {listed(methods)}", fix, methods))
    if config.train.method in QUANTIZED_BASES:
        fix = f"use train.method=lora, {lower}"
        found.append((f"train.method={config.train.method}", fix, [QUANTIZED_BASES[config.train.method]]))
    return found


def _check_widths(setting: str, shape: ModelShape) -> None:
    rows = {linear.inputs for linear in shape.linear_maps if linear.is_quantized}
    if wrong := sorted(width for width in rows if not is_plain_kernel_right(width)):
        raise ConfigError(wrong_widths(setting, wrong))
