"""Put a plan together: what the checks found, the model's shape, and the plan of each training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError, FineTuneError
from configs.schema import FineTuneConfig
from configs.schema.train import QUANTIZED_METHODS
from configs.wire import Shard
from configs.wire_plan import Check, ModelFacts, Plan, StagePlan
from tasks.plan.assumptions import assumptions, row_facts_of
from tasks.plan.checks.preflight import Answer, Finding, Question, answer, value_of
from tasks.plan.checks.questions import first_rows_of
from tasks.plan.checks.token_checks import UNKNOWN_POSITIONS, check_length
from tasks.plan.hardware.gpus import find_gpu, gpu_types
from tasks.plan.hardware.target import Target
from tasks.plan.resolve.models import ResolvedModel
from tasks.plan.shapes.architectures import known_shape, shape_of
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import training_job
from tasks.plan.stages import Subject, misfit, plan_stage

NAME = "memory"
TIGHT = 0.95
"""Share of the memory above which a plan that fits says that little is left."""
LARGEST_HOST_GIB = 2048
"""Host memory of the largest usual machine with GPUs: a DGX H100 has 2 TB."""
_NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Sized:
    """The model's shape, and where it is from; None where neither the model nor a shape file was found."""

    shape: ModelShape | None
    source: str


@dataclass(frozen=True)
class Built:
    """The plan, the answers with those of the memory plans, and the configs with what was left open settled."""

    plan: Plan
    answers: list[Answer]
    configs: dict[str, FineTuneConfig]

    def value(self, name: str, default: Any = None) -> Any:
        """Return what the question called `name` found; `default` where it was not asked."""
        return value_of(self.answers, name, default)


def build_plan(stages: Mapping[str, FineTuneConfig], answers: Sequence[Answer], local: Target | None) -> Built:
    """Return the plan of all stages; `stages` has the one called `train`, or those of an alignment.

    `answers` are those to `tasks.plan.checks.questions`. `local` is this machine, where training runs on it. A plan
    that does not
    fit is a failed check among the answers, or a warning where the config says so.
    """
    last = list(stages.values())[-1]
    model = value_of(answers, "model files")
    found = list(answers)
    sized = _sized(last, model, answers, found)
    plans: list[StagePlan] = []
    configs = dict(stages)
    for name, config in stages.items() if sized.shape is not None else ():
        assert sized.shape is not None
        prefix = f"{name}: " if len(stages) > 1 else ""
        facts = row_facts_of(config, _rows_of(answers, prefix))
        size = model.weight_bytes if model is not None else 0
        known, faults = _without_faults(config, sized.shape, prefix)
        stage, settled = plan_stage(Subject(name, known, sized.shape, local, facts, size))
        # what is wrong stays in the config: the run does not go on with it
        configs[name] = config if faults else settled
        plans.append(stage)
        found += [*faults, _fitting(prefix + NAME, stage, config), *_of_host(prefix, stage)]
        _check_length(found, prefix, config, sized.shape)
    plan = Plan(
        model_revision=model.revision if model is not None else "",
        chat_template=value_of(answers, _named(stages, "chat template file")),
        rewards_version=value_of(answers, _named(stages, "rewards"), ""),
        deepspeed_json=value_of(answers, _named(stages, "deepspeed file"), ""),
        warnings=[f"{each.check.name}: {each.check.found}" for each in found if each.check.result == "warning"],
        model=_facts(last, sized, model, answers),
        data_revisions=_revisions(stages, answers),
        checks=[each.check for each in found],
        stages=plans,
        assumptions=assumptions(stages, plans, sized.shape, local, answers),
    )
    return Built(plan, found, configs)


def _named(stages: Mapping[str, Any], question: str) -> str:
    """Return the name of the last stage's question."""
    return f"{list(stages)[-1]}: {question}" if len(stages) > 1 else question


def _rows_of(answers: Sequence[Answer], prefix: str) -> list[Any]:
    return first_rows_of([each for each in answers if each.check.name.startswith(f"{prefix}first rows")])


def _sized(
    config: FineTuneConfig, model: ResolvedModel | None, answers: Sequence[Answer], found: list[Answer]
) -> Sized:
    """Return the shape by the model's own settings, else that of configs/shapes; what is wrong with it is an answer."""
    name = config.model.name
    # there where the weights are not, too
    settings = value_of(answers, "architecture", model.settings if model is not None else None)
    try:
        known = known_shape(name)
        if settings:
            return Sized(shape_of(settings, name), "its config.json")
        if known is not None:
            return Sized(shape_of(known.settings, name), f"configs/shapes ({known.source})")
    except FineTuneError as error:
        if config.model.trust_remote_code and "auto_map" in (settings or {}):
            said = "not checked: the model's own code is not run by a plan, and its shape is not known"
            found.append(Answer(Check(name=NAME, result=_NOT_CHECKED, found=said)))
        else:
            found.append(_failed(NAME, error))
        return Sized(None, "")
    check = Check(
        name=NAME,
        result=_NOT_CHECKED,
        found="not checked: needs `model files`, or a file of its numbers in configs/shapes",
    )
    found.append(Answer(check))
    return Sized(None, "")


def _without_faults(config: FineTuneConfig, shape: ModelShape, prefix: str) -> tuple[FineTuneConfig, list[Answer]]:
    """Return the config without what no plan can be made for, and a failed check of each such setting."""
    faults, train = [], config.train
    try:
        find_gpu(train.cluster.gpu or "", gpu_types(config.plan.gpu_types)) if train.cluster.gpu else None
    except ConfigError as error:
        faults.append(_failed(f"{prefix}GPU type", error))
        train = train.model_copy(update={"cluster": train.cluster.model_copy(update={"gpu": None})})
    try:
        shape.targeted(train.lora.target_modules)
    except ConfigError as error:
        if train.method in ("lora", *QUANTIZED_METHODS):
            faults.append(_failed(f"{prefix}adapter targets", error))
        train = train.model_copy(update={"lora": train.lora.model_copy(update={"target_modules": ["all-linear"]})})
    return config.model_copy(update={"train": train}), faults


def _of_host(prefix: str, plan: StagePlan) -> list[Answer]:
    """Return a warning where a machine is asked for more memory than usual ones have."""
    asked = plan.machines
    if asked.gpus == 0 or asked.memory_gib <= LARGEST_HOST_GIB:
        return []
    found = f"{asked.memory_gib:,} GiB on each machine; the largest usual ones have {LARGEST_HOST_GIB:,}"
    fix = "take fewer processes on a machine, or fix train.cluster.memory_gib_per_process if you know better"
    return [Answer(Check(name=f"{prefix}host memory", result="warning", found=found, fix=fix))]


def _check_length(found: list[Answer], prefix: str, config: FineTuneConfig, shape: ModelShape) -> None:
    """Answer `sequence length` by the shape where the model's own settings were not there to be asked."""
    name = f"{prefix}sequence length"
    at = next((number for number, each in enumerate(found) if each.check.name == name), None)
    if at is None or shape.positions is None:
        return
    check = found[at].check
    if check.result == "not checked" or UNKNOWN_POSITIONS in check.found:
        numbers = {"max_position_embeddings": shape.positions}

        def ask() -> Finding:
            said, warning = check_length(config.tokenize, config.train, numbers)
            return Finding(said, warning=warning, fix="lower it, or tokenize.max_length")

        [found[at]] = answer([Question(name, ask)])


def _failed(name: str, error: FineTuneError) -> Answer:
    lines = str(error).splitlines()
    fix = lines[-1] if lines[1:] else ""
    return Answer(Check(name=name, result="failed", found="\n".join(lines[:-1] or lines), fix=fix), error=error)


def _fitting(name: str, plan: StagePlan, config: FineTuneConfig) -> Answer:
    if plan.fits:
        use = max(plan.memory, key=lambda each: each.total)
        said = f"{use.total / 1e9:.3g} of {plan.machines.memory_bytes / 1e9:.3g} GB ({plan.machines.gpu})"
        if plan.machines.gpus and not config.train.cluster.gpu:
            # Kubernetes gives a pod that asks for one GPU any that there is
            tight = ": it fits, but tightly" if use.total > TIGHT * plan.machines.memory_bytes else ""
            warning = f"{said}{tight}; no GPU type is named, and a smaller one may come"
            fix = "set train.cluster.gpu, where the cluster has several types"
            return Answer(Check(name=name, result="warning", found=warning, fix=fix))
        if use.total > TIGHT * plan.machines.memory_bytes:
            fix = "lower train.micro_batch_size or tokenize.max_length, or take a larger GPU, where it runs out"
            return Answer(Check(name=name, result="warning", found=f"{said}: it fits, but tightly", fix=fix))
        return Answer(Check(name=name, result="ok", found=said))
    is_warned = config.plan.if_too_large == "warn"
    found, *rest = misfit(plan, is_warned).splitlines()
    check = Check(name=name, result="warning" if is_warned else "failed", found=found, fix="\n".join(rest))
    return Answer(check, error=None if is_warned else ConfigError(misfit(plan)))


def _facts(
    config: FineTuneConfig, sized: Sized, model: ResolvedModel | None, answers: Sequence[Answer]
) -> ModelFacts | None:
    shape, known = sized.shape, known_shape(config.model.name)
    if shape is None:
        return None
    said = model.license if model is not None else known.license if known is not None else "not checked"
    return ModelFacts(
        name=config.model.name,
        family=shape.family,
        license=value_of(answers, "license", said),
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        experts=shape.experts,
        is_tied=shape.is_tied,
        positions=shape.positions,
        source=sized.source,
    )


def _revisions(stages: Mapping[str, FineTuneConfig], answers: Sequence[Answer]) -> list[str]:
    """Return what each source of rows holds right now: a commit, or the beginning of a hash."""
    found: dict[str, None] = {}
    for name, config in stages.items():
        prefix = f"{name}: " if len(stages) > 1 else ""
        resolved = value_of(answers, f"{prefix}data sources")
        for shard in resolved.shards if resolved is not None else ():
            source = getattr(config.data, shard.section)[shard.number]
            where = f"{prefix}data.{shard.section}[{shard.number}]"
            for revision in _revisions_of(shard):
                found[f"{where}: {source.hub or ''}{'@' if source.hub else ''}{revision}"] = None
    return list(found)


def _revisions_of(shard: Shard) -> list[str]:
    return [shard.revision] if shard.revision else [f"{each.name} {each.sha256[:12]}" for each in shard.ranges]


def sizes_of(settings: dict[str, Any], config: FineTuneConfig) -> tuple[int, int]:
    """Return (all, trained) parameters of a model with these settings, for `Surroundings.parameters_of`."""
    shape = shape_of(settings, config.model.name)
    return shape.parameters, training_job(config, shape, Target("any", 0)).trained_parameters
