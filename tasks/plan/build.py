"""Builds a plan from the answers of the checks, the model's shape, and the plan of each training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.addresses import shown_address
from configs.errors import ConfigError, FineTuneError, ModelError
from configs.schema import FineTuneConfig
from configs.schema.train import QUANTIZED_METHODS
from configs.wire import Shard
from configs.wire_plan import Check, ModelFacts, PhasePlan, Plan
from tasks.plan.assumptions import assumptions, row_facts_of
from tasks.plan.checks.others import FoundModel
from tasks.plan.checks.preflight import Answer, Finding, Question, answer, value_of
from tasks.plan.checks.quantized_share import share_answers
from tasks.plan.checks.questions import WEIGHTS, first_rows_of
from tasks.plan.checks.token_checks import UNKNOWN_POSITIONS, check_length
from tasks.plan.checks.token_questions import WATCHED
from tasks.plan.hardware.gpus import find_gpu, gpu_types
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.phases import Training, misfit_message, plan_phase
from tasks.plan.resolve.models import ResolvedModel
from tasks.plan.scoring import plan_scoring
from tasks.plan.shapes.architectures import known_shape, shape_of
from tasks.plan.shapes.missing_weights import check_weights, has_all_numbers
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import training_job

MEMORY_CHECK = "memory"
TIGHT_SHARE = 0.95
"""Share of the memory above which a plan that fits warns that little is left."""
LARGEST_HOST_GIB = 2048
"""Host memory of the largest common machine with GPUs: a DGX H100 has 2 TB."""
_NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class FoundShape:
    """The model's shape, and where it is from; None if neither the model nor a shape file was found."""

    shape: ModelShape | None
    source: str


@dataclass(frozen=True)
class BuiltPlan:
    """The plan, all answers including those of the memory checks, and the configs without open settings."""

    plan: Plan
    answers: list[Answer]
    configs: dict[str, FineTuneConfig]

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value that the question called `name` found, or `default` if it was not asked."""
        return value_of(self.answers, name, default)


def build_plan(phases: Mapping[str, FineTuneConfig], answers: Sequence[Answer], local: Target | None) -> BuiltPlan:
    """Return the plan of all trainings: one called `train`, or the phases of an alignment.

    `answers` are the answers to `tasks.plan.checks.questions`. `local` is this machine if training runs on it. A
    training that does not fit becomes a failed check among the answers, or a warning if the config asks for that.
    """
    last = list(phases.values())[-1]
    model = value_of(answers, "model files")
    all_answers = list(answers)
    found_shape = _find_shape(last, model, answers, all_answers)
    _compare_weights(next(iter(phases.values())), model, found_shape.shape, all_answers)
    plans: list[PhasePlan] = []
    configs = dict(phases)
    for name, config in phases.items() if found_shape.shape is not None else ():
        assert found_shape.shape is not None
        prefix = f"{name}: " if len(phases) > 1 else ""
        facts = row_facts_of(config, _first_rows(answers, prefix))
        size = model.weight_bytes if model is not None else 0
        valid, faults = _without_faults(config, found_shape.shape, prefix)
        plan, settled = plan_phase(Training(name, valid, found_shape.shape, local, facts, size))
        # a faulty config is kept as it is: it stops the run
        configs[name] = config if faults else settled
        plans.append(plan)
        all_answers += [*faults, *share_answers(prefix, config, found_shape.shape, local)]
        all_answers += [_memory_answer(prefix + MEMORY_CHECK, plan, config), *_host_warnings(prefix, plan)]
        all_answers += _scoring_warnings(prefix, plan, config)
        _check_length(all_answers, prefix, config, found_shape.shape)
    others = value_of(answers, _last_name(phases, "other models"), [])
    if others and plans:
        scoring = plan_scoring(last, _settings_of(last, others), local or _target_of(last, plans[-1]))
        all_answers += scoring.answers
        name = list(phases)[-1]
        if last.evaluate.batch_size is None:
            configs[name] = scoring.settled(configs[name])
            plans[-1] = plans[-1].model_copy(update={"evaluation_rows": configs[name].evaluate.rows_per_pass})
    checks = [given.check for given in all_answers]
    rewards_version = value_of(answers, _last_name(phases, "rewards"), "")
    scores_version = value_of(answers, _last_name(phases, "evaluation"), "")
    whole_plan = Plan(
        model_revision=model.revision if model is not None else "",
        chat_template=value_of(answers, _last_name(phases, "chat template file")),
        rewards_version=rewards_version + _watched_version(phases, answers),
        scores_version=rewards_version + scores_version,
        other_revisions=[own.revision for own in others],
        deepspeed_json=value_of(answers, _last_name(phases, "deepspeed file"), ""),
        warnings=[f"{check.name}: {check.found}" for check in checks if check.result == "warning"],
        model=_model_facts(last, found_shape, model, answers),
        data_revisions=_revisions(phases, answers),
        checks=checks,
        stages=plans,
        assumptions=assumptions(phases, plans, found_shape.shape, local, answers),
    )
    return BuiltPlan(whole_plan, all_answers, configs)


def _settings_of(config: FineTuneConfig, others: Sequence[FoundModel]) -> dict[str, dict[str, Any]]:
    """Return the config.json of each of `evaluate.others` that is a model of its own, by its title."""
    pairs = zip(config.evaluate.others, others, strict=True)
    return {other.title: found.settings for other, found in pairs if found.settings}


def _target_of(config: FineTuneConfig, plan: PhasePlan) -> Target:
    """Return the GPUs that a plan is for."""
    return gpu_target(find_gpu(plan.machines.gpu, gpu_types(config.plan.gpu_types)))


def _last_name(phases: Mapping[str, Any], question: str) -> str:
    """Return the name of a question about the last phase."""
    return f"{list(phases)[-1]}: {question}" if len(phases) > 1 else question


def _watched_version(phases: Mapping[str, Any], answers: Sequence[Answer]) -> str:
    """Return the hash of the functions of `train.watch.measures` in all phases, which share one version."""
    names = [f"{phase}: {WATCHED}" for phase in phases] if len(phases) > 1 else [WATCHED]
    return "".join(value_of(answers, name, "") for name in names)


def _first_rows(answers: Sequence[Answer], prefix: str) -> list[Any]:
    return first_rows_of([answer for answer in answers if answer.check.name.startswith(f"{prefix}first rows")])


def _find_shape(
    config: FineTuneConfig, model: ResolvedModel | None, answers: Sequence[Answer], all_answers: list[Answer]
) -> FoundShape:
    """Return the shape by the model's own settings, else by configs/shapes; append an answer if there is none."""
    name = config.model.name
    # the architecture is known even if the weights are missing
    settings = value_of(answers, "architecture", model.settings if model is not None else None)
    try:
        known = known_shape(name)
        if settings:
            return FoundShape(shape_of(settings, name), "its config.json")
        if known is not None:
            return FoundShape(shape_of(known.settings, name), f"configs/shapes ({known.source})")
    except FineTuneError as error:
        if config.model.trust_remote_code and "auto_map" in (settings or {}):
            found = "not checked: a plan does not run the model's own code, so its shape is not known"
            all_answers.append(Answer(Check(name=MEMORY_CHECK, result=_NOT_CHECKED, found=found)))
        else:
            all_answers.append(_failed(MEMORY_CHECK, error))
        return FoundShape(None, "")
    check = Check(
        name=MEMORY_CHECK,
        result=_NOT_CHECKED,
        found="not checked: needs `model files`, or a file of its numbers in configs/shapes",
    )
    all_answers.append(Answer(check))
    return FoundShape(None, "")


def _without_faults(config: FineTuneConfig, shape: ModelShape, prefix: str) -> tuple[FineTuneConfig, list[Answer]]:
    """Return the config without settings that cannot be planned, and a failed check for each of them."""
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


def _host_warnings(prefix: str, plan: PhasePlan) -> list[Answer]:
    """Return a warning if the plan requests more host memory than common machines have."""
    machines = plan.machines
    if machines.gpus == 0 or machines.memory_gib <= LARGEST_HOST_GIB:
        return []
    found = f"{machines.memory_gib:,} GiB on each machine; the largest common ones have {LARGEST_HOST_GIB:,}"
    fix = "run fewer processes on a machine, or set train.cluster.memory_gib_per_process if you know better"
    return [Answer(Check(name=f"{prefix}host memory", result="warning", found=found, fix=fix))]


def _scoring_warnings(prefix: str, plan: PhasePlan, config: FineTuneConfig) -> list[Answer]:
    """Return a warning if a pod that scores a model asks for more GPUs than usual machines have."""
    gpu = gpu_types(config.plan.gpu_types).get(plan.machines.gpu)
    if gpu is None or plan.evaluation_gpus <= gpu.gpus_per_node:
        return []
    found = f"evaluate.gpus={plan.evaluation_gpus}; usual machines have {gpu.gpus_per_node} {gpu.name} at most"
    fix = "lower it, or use evaluate.load_in=4bit: a pod that asks for more waits without end"
    return [Answer(Check(name=f"{prefix}GPUs of the evaluation", result="warning", found=found, fix=fix))]


def _check_length(answers: list[Answer], prefix: str, config: FineTuneConfig, shape: ModelShape) -> None:
    """Replace the answer to `sequence length` by one from the shape, if the model's own settings were missing."""
    name = f"{prefix}sequence length"
    index = next((index for index, given in enumerate(answers) if given.check.name == name), None)
    if index is None or shape.positions is None:
        return
    check = answers[index].check
    if check.result == "not checked" or UNKNOWN_POSITIONS in check.found:
        model_settings = {"max_position_embeddings": shape.positions}

        def ask() -> Finding:
            found, warning = check_length(config.tokenize, config.train, model_settings)
            return Finding(found, warning=warning, fix="lower it, or tokenize.max_length")

        [answers[index]] = answer([Question(name, ask)])


def _failed(name: str, error: FineTuneError) -> Answer:
    lines = str(error).splitlines()
    fix = lines[-1] if lines[1:] else ""
    return Answer(Check(name=name, result="failed", found="\n".join(lines[:-1] or lines), fix=fix), error=error)


def _memory_answer(name: str, plan: PhasePlan, config: FineTuneConfig) -> Answer:
    if plan.fits:
        use = max(plan.memory, key=lambda use: use.total)
        found = f"{use.total / 1e9:.3g} of {plan.machines.memory_bytes / 1e9:.3g} GB ({plan.machines.gpu})"
        if plan.machines.gpus and not config.train.cluster.gpu:
            # Kubernetes gives a pod that requests one GPU any free one
            tight = ": it fits, but tightly" if use.total > TIGHT_SHARE * plan.machines.memory_bytes else ""
            warning = f"{found}{tight}; no GPU type is named, so the cluster may assign a smaller one"
            fix = "set train.cluster.gpu if the cluster has several types"
            return Answer(Check(name=name, result="warning", found=warning, fix=fix))
        if use.total > TIGHT_SHARE * plan.machines.memory_bytes:
            fix = "if it runs out of memory, lower train.micro_batch_size or tokenize.max_length, or take a larger GPU"
            return Answer(Check(name=name, result="warning", found=f"{found}: it fits, but tightly", fix=fix))
        return Answer(Check(name=name, result="ok", found=found))
    only_warns = config.plan.if_too_large == "warn"
    found, *rest = misfit_message(plan, only_warns).splitlines()
    check = Check(name=name, result="warning" if only_warns else "failed", found=found, fix="\n".join(rest))
    return Answer(check, error=None if only_warns else ConfigError(misfit_message(plan)))


def _model_facts(
    config: FineTuneConfig, found_shape: FoundShape, model: ResolvedModel | None, answers: Sequence[Answer]
) -> ModelFacts | None:
    shape, known = found_shape.shape, known_shape(config.model.name)
    if shape is None:
        return None
    license_name = model.license if model is not None else known.license if known is not None else "not checked"
    return ModelFacts(
        name=shown_address(config.model.name),
        family=shape.family,
        license=value_of(answers, "license", license_name),
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        experts=shape.experts,
        is_tied=shape.is_tied,
        positions=shape.positions,
        source=found_shape.source,
    )


def _revisions(phases: Mapping[str, FineTuneConfig], answers: Sequence[Answer]) -> list[str]:
    """Return the current revision of each source of rows: a commit, or the beginning of a hash."""
    revisions: dict[str, None] = {}
    for name, config in phases.items():
        prefix = f"{name}: " if len(phases) > 1 else ""
        resolved = value_of(answers, f"{prefix}data sources")
        for shard in resolved.shards if resolved is not None else ():
            source = getattr(config.data, shard.section)[shard.number]
            where = f"{prefix}data.{shard.section}[{shard.number}]"
            for revision in _revisions_of(shard):
                revisions[f"{where}: {source.hub or ''}{'@' if source.hub else ''}{revision}"] = None
    return list(revisions)


def _revisions_of(shard: Shard) -> list[str]:
    return (
        [shard.revision]
        if shard.revision
        else [f"{file_range.name} {file_range.sha256[:12]}" for file_range in shard.ranges]
    )


def _compare_weights(
    config: FineTuneConfig, model: ResolvedModel | None, shape: ModelShape | None, all_answers: list[Answer]
) -> None:
    """Replace the answer to the question about weights where the files lack some that the model needs.

    Here and not in a question's thread, since transformers may have to be loaded.
    """
    position = next((n for n, given in enumerate(all_answers) if given.check.name == WEIGHTS and given.value), None)
    if position is None or model is None or shape is None:
        return
    tensors, settings = all_answers[position].value, model.settings
    if has_all_numbers(settings, tensors, shape):
        return
    try:
        reason = check_weights(config.model, settings, tensors, config.train.objective)
    except ModelError as error:
        all_answers[position] = _failed(WEIGHTS, error)
        return
    if reason:
        all_answers[position] = Answer(Check(name=WEIGHTS, result=_NOT_CHECKED, found=f"not checked: {reason}"))


def parameter_counts(settings: dict[str, Any], config: FineTuneConfig) -> tuple[int, int]:
    """Return the numbers of (all, trained) parameters of a model with these settings, for `Surroundings`."""
    shape = shape_of(settings, config.model.name)
    return shape.parameters, training_job(config, shape, Target("any", 0)).trained_parameters
