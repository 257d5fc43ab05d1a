"""Plans the memory of scoring models that are not trained here: those of `evaluate.others`, and an evaluation alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError, FineTuneError
from configs.schema import FineTuneConfig
from configs.wire_plan import Check
from tasks.plan.checks.preflight import Answer
from tasks.plan.hardware.gpus import GpuType, find_gpu, gpu_types
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.shapes.architectures import shape_of
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import evaluation_memory, fits_evaluation, with_evaluation, with_evaluation_rows

_GB = 10**9
_MOST_GPUS = 8
_NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class ScoringPlan:
    """The rows per forward pass that fit for every model, and an answer on the memory of each."""

    rows: int | None
    answers: list[Answer]

    def settled(self, config: FineTuneConfig) -> FineTuneConfig:
        """Return the config with as many rows per forward pass as fit for every model, unless the user set them."""
        if self.rows is None or (config.evaluate.batch_size or self.rows + 1) <= self.rows:
            return config
        return with_evaluation_rows(config, self.rows)


def plan_scoring(
    config: FineTuneConfig, models: Mapping[str, dict[str, Any]], target: Target | None = None
) -> ScoringPlan:
    """Plan the evaluation of models by their config.json, [name -> settings]; empty settings are those of no file.

    `target` is where they are scored: this machine, or GPUs of a type. Without one it is the type that
    `train.cluster.gpu` names, or else for each model the smallest on which it fits.

    Raises:
        ConfigError: `train.cluster.gpu` is not in the table.
    """
    # copies are of a model that is trained here
    alone = config.model_copy(update={"quantize": config.quantize.model_copy(update={"methods": []})})
    rows, answers = [], []
    for name, settings in models.items():
        check_name = f"memory of {name}"
        try:
            shape = shape_of(settings, name)
        except FineTuneError as error:
            found = f"its shape is not known: {str(error).splitlines()[0]}"
            answers.append(Answer(Check(name=check_name, result=_NOT_CHECKED, found=found)))
            continue
        place = target or _target(alone, shape)
        settled = with_evaluation(alone, shape, place)
        rows.append(settled.evaluate.rows_per_pass)
        answers.append(_answer(check_name, settled, shape, place))
    return ScoringPlan(min(rows, default=None), answers)


def _target(config: FineTuneConfig, shape: ModelShape) -> Target:
    types = list(gpu_types(config.plan.gpu_types).values())
    named = config.train.cluster.gpu
    if named:
        return gpu_target(find_gpu(named, {gpu.name: gpu for gpu in types}))
    return next((place for place in map(gpu_target, types) if fits_evaluation(config, shape, place)), _largest(types))


def _largest(types: Sequence[GpuType]) -> Target:
    return gpu_target(types[-1])


def _answer(name: str, config: FineTuneConfig, shape: ModelShape, target: Target) -> Answer:
    needed, rows = evaluation_memory(config, shape, target).total, config.evaluate.rows_per_pass
    gpus = config.evaluate.gpus if target.is_gpu else 1
    each = f"each of {gpus} GPUs" if gpus > 1 else target.name
    found = f"scoring takes {needed / _GB:.3g} of {target.memory_bytes / _GB:.3g} GB of {each}, {rows} rows at a time"
    if needed <= target.memory_bytes:
        return Answer(Check(name=name, result="ok", found=found))
    ways = _ways(config, shape, target)
    fix = f"it would fit with {' | '.join(ways)}" if ways else "take a smaller model, or shorter rows"
    if config.plan.if_too_large == "warn":
        return Answer(Check(name=name, result="warning", found=found, fix=fix))
    message = f"{name}: {found}\n{fix}\nto run it anyway, set plan.if_too_large=warn"
    return Answer(Check(name=name, result="failed", found=found, fix=fix), error=ConfigError(message))


def _ways(config: FineTuneConfig, shape: ModelShape, target: Target) -> list[str]:
    """Return the changes of `evaluate` with which scoring fits, each of them tried."""
    gpus = [number for number in (2, 4, _MOST_GPUS) if number > config.evaluate.gpus] if target.is_gpu else []
    bits = ["4bit"] if config.evaluate.load_in != "4bit" else []
    candidates: list[dict[str, Any]] = [
        *({"batch_size": 1} for _ in [0] if config.evaluate.rows_per_pass > 1),
        *({"load_in": value} for value in bits),
        *({"gpus": number} for number in gpus),
        *({"gpus": number, "load_in": value} for number in gpus for value in bits),
    ]
    found: list[dict[str, Any]] = []
    for changes in candidates:
        changed = config.model_copy(update={"evaluate": config.evaluate.model_copy(update=changes)})
        # more of the same is no further way
        is_known = any(all(key in changes for key in known) for known in found)
        if not is_known and evaluation_memory(changed, shape, target).total <= target.memory_bytes:
            found.append(changes)
    return [", ".join(f"evaluate.{key}={value}" for key, value in changes.items()) for changes in found]
