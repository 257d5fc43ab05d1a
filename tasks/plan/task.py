"""Flyte task: resolve and check all that a CPU can, in seconds, before anything is computed."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import flytekit
from flytekit import Deck, task
from pydantic import BaseModel

import tasks.runtime.laptop_run as laptop_run
from configs.artifacts import PushedArtifact
from configs.effective.device import PLAIN_CPU
from configs.printable import one_line, print_line, print_text, printable
from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.wire import Shard
from configs.wire_plan import Plan, PlanFor
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.plan.outputs import Planned, PlannedAlignment, PlannedEvaluation, Resolved, base_parts, divide
from tasks.runtime.pods import DECK_FIELDS, SMALL, SMALL_POD_BYTES, filesystem_of, is_laptop_run
from tasks.runtime.refused_config import accepted
from tasks.runtime.secrets import (
    HUB_TOKEN,
    HUB_TOKEN_SOURCES,
    TRACKER_SECRETS,
    read_hub_token,
    read_tracker_secrets,
    tracker_sources,
)
from tasks.runtime.shown_errors import shows_errors

if TYPE_CHECKING:
    from tasks.plan.build import BuiltPlan
    from tasks.plan.checks.surroundings import Surroundings
    from tasks.plan.hardware.target import Target


_planning = partial(
    task,
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN, *TRACKER_SECRETS],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def resolve_data(config: FineTuneConfig) -> Resolved:
    """Check that the config's data exists; return its shards, and the revisions of `data.contamination`."""
    from tasks.decks import html
    from tasks.decks.short import render_facts
    from tasks.plan.checks import settings
    from tasks.plan.resolve import data

    config = accepted(config)
    if is_laptop_run():
        settings.check_output_directory(config)
    laptop_run.start(config, "prepare_data")
    resolved = data.resolve_data(config.data, read_hub_token())
    laptop_run.note({"data": _data_hashes(resolved.shards)})
    facts = [("sources", len(config.data.sources)), ("shards", len(resolved.shards))]
    Deck("data", html.fragment(render_facts("Data found", facts)))
    work = divide(resolved.shards, 1)
    return Resolved(
        config=config,
        data=config.data,
        contamination=resolved.contamination,
        shards=work.shards,
        mapped_shards=work.mapped_shards,
    )


def _data_hashes(shards: Sequence[Shard]) -> list[str]:
    hashes = [f"{part.name}: {part.sha256}" for shard in shards for part in shard.ranges]
    return sorted({*hashes, *(shard.revision for shard in shards if shard.revision)})


class PlanResult(BaseModel):
    """A plan without a run; it is printed as its text."""

    text: str
    plan: Plan

    def __str__(self) -> str:
        return printable(f"\n{self.text}")


@_planning
@shows_errors
def make_plan(config: FineTuneConfig) -> Planned:
    """Check all that a CPU can, plan memory and machines, and settle what the config leaves open.

    Stops the run if a check fails or the training does not fit; all failures are reported together.
    """
    config = accepted(config)
    laptop_run.start(config, "fine_tune")
    built = _check_and_plan({"train": config}, _target())
    _show_and_verify(built, config.name, config.output_directory)
    resolved = built.value("data sources")
    settled = _with_run_name(built.configs["train"])
    work = divide(resolved.shards, settled.data.shards)
    return Planned(
        plan=built.plan,
        config=settled,
        model=settled.model,
        data=settled.data,
        tokenize=settled.tokenize,
        objective=settled.train.objective,
        trust_remote_code=settled.model.trust_remote_code,
        contamination=resolved.contamination,
        shards=work.shards,
        mapped_shards=work.mapped_shards,
        mapped_parts=work.mapped_parts,
        artifacts=_artifacts(settled),
        base_revision=built.plan.model_revision,
        model_gib=_size_gib(built),
        evaluate=settled.evaluate.for_scoring(),
        evaluate_gpus=settled.evaluate.gpus,
        scored_parts=base_parts(settled.evaluate),
        rewards=settled.train.policy.rewards,
    )


@task(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
@shows_errors
def with_reason(config: FineTuneConfig, reason: str) -> FineTuneConfig:
    """Return the config with the reason to publish what the gate holds back.

    Raises:
        ConfigError: there is no reason, or no repository.
    """
    from configs.errors import ConfigError

    config = accepted(config)
    if not reason.strip():
        raise ConfigError("reason is empty: say why the model is published although the gate held it back")
    if config.push_to_hub.repository is None:
        raise ConfigError("push_to_hub.repository is not set: name the repository to publish to")
    return config.model_copy(update={"push_to_hub": config.push_to_hub.model_copy(update={"reason": reason})})


@_planning
@shows_errors
def plan_alignment(config: AlignConfig) -> PlannedAlignment:
    """Do as `make_plan`, for all phases at once, before the first of them runs."""
    config = accepted(config)
    laptop_run.start(config, "align")
    built = _check_and_plan({name: config.phase(name) for name in config.phases()}, _target())
    _show_and_verify(built, config.name, config.output_directory)
    phases = {name: _with_run_name(phase) for name, phase in built.configs.items()}
    resolved = {name: built.value(f"{name}: data sources") for name in phases}
    settled = {name: getattr(config, name).model_copy(update={"train": phase.train}) for name, phase in phases.items()}
    reward = [phases["reward"]] if "reward" in phases else []
    sft, policy = (divide(resolved[name].shards, phases[name].data.shards) for name in ("sft", "policy"))
    return PlannedAlignment(
        plan=built.plan,
        config=config.model_copy(update=settled),
        model=config.model,
        trust_remote_code=config.model.trust_remote_code,
        sft=phases["sft"],
        sft_data=phases["sft"].data,
        sft_tokenize=phases["sft"].tokenize,
        sft_objective=phases["sft"].train.objective,
        sft_contamination=resolved["sft"].contamination,
        sft_shards=sft.shards,
        sft_mapped_shards=sft.mapped_shards,
        sft_mapped_parts=sft.mapped_parts,
        sft_deepspeed_json=built.value("sft: deepspeed file", ""),
        reward=reward,
        reward_contamination=resolved["reward"].contamination if reward else [],
        reward_shards=resolved["reward"].shards if reward else [],
        reward_deepspeed_json=built.value("reward: deepspeed file", ""),
        policy=phases["policy"],
        policy_data=phases["policy"].data,
        policy_tokenize=phases["policy"].tokenize,
        policy_objective=phases["policy"].train.objective,
        policy_contamination=resolved["policy"].contamination,
        policy_shards=policy.shards,
        policy_mapped_shards=policy.mapped_shards,
        policy_mapped_parts=policy.mapped_parts,
        artifacts=_artifacts(phases["policy"]),
        base_revision=built.plan.model_revision,
        model_gib=_size_gib(built),
        evaluate=phases["policy"].evaluate.for_scoring(),
        evaluate_gpus=phases["policy"].evaluate.gpus,
        scored_parts=base_parts(phases["policy"].evaluate),
        rewards=phases["policy"].train.policy.rewards,
    )


@_planning
@shows_errors
def plan_evaluation(config: FineTuneConfig) -> PlannedEvaluation:
    """Check all that a CPU can of an evaluation without training; all failures are reported together.

    Every row is to be scored, but those of sources with the role `train`.
    """
    from tasks.decks import html
    from tasks.decks.short import render_facts
    from tasks.plan.checks.alone import data_to_score, questions_alone
    from tasks.plan.checks.preflight import answer, fail_together, text_table
    from tasks.plan.scoring import plan_scoring

    config = accepted(config)
    config = config.model_copy(update={"data": data_to_score(config.data)})
    laptop_run.start(config, "evaluate")
    target = _target()
    answers = answer(questions_alone(config, replace(_surroundings([config], target), trains=False)))
    found = {given.check.name: given.value for given in answers}
    others = found.get("other models") or []
    settings = {"base": getattr(found.get("model files"), "settings", {})}
    settings |= {other.title: own.settings for other, own in zip(config.evaluate.others, others, strict=False)}
    scoring = plan_scoring(config, {name: own for name, own in settings.items() if own}, target)
    answers += scoring.answers
    config = scoring.settled(config)
    Deck("plan", html.fragment(render_facts("Checks", [(given.check.name, given.check.found) for given in answers])))
    if any(given.error is not None for given in answers):
        print_text(f"{text_table([given.check for given in answers])}\n")
    for given in answers:
        if given.check.result == "warning":
            print_line(f"warning: {given.check.name}: {given.check.found}")
    fail_together(answers, needs_network=True)
    resolved, model = found["data sources"], found.get("model files")
    work = divide(resolved.shards, config.data.shards)
    return PlannedEvaluation(
        config=config,
        evaluate=config.evaluate.for_scoring(),
        data=config.data,
        contamination=resolved.contamination,
        shards=work.shards,
        mapped_shards=work.mapped_shards,
        model_revision="" if model is None else model.revision,
        other_revisions=[own.revision for own in others],
        chat_template=found.get("chat template file"),
        scores_version=str(found["evaluation"]),
    )


@_planning
@shows_errors
def show_plan(config: FineTuneConfig, machines: PlanFor) -> PlanResult:
    """Return the plan of a fine-tuning, for a cluster's GPUs or for this machine; fails if a check fails."""
    config = accepted(config)
    return _plan_only({"train": config}, config.name, config.output_directory, machines is PlanFor.HERE)


@_planning
@shows_errors
def show_alignment_plan(config: AlignConfig, machines: PlanFor) -> PlanResult:
    """Return the plan of an alignment, all phases at once, as `show_plan` does."""
    config = accepted(config)
    phases: dict[str, FineTuneConfig] = {name: config.phase(name) for name in config.phases()}
    return _plan_only(phases, config.name, config.output_directory, machines is PlanFor.HERE)


def _plan_only(phases: Mapping[str, FineTuneConfig], name: str, output_directory: str, is_here: bool) -> PlanResult:
    """Return the plan without running anything; a missing network does not stop it."""
    from tasks.decks.plan import plan_text
    from tasks.plan.checks.preflight import fail_together, text_table

    target = None
    if is_here or SMALL_POD_BYTES is not None:
        target = _target() or _this_machine()
    built = _check_and_plan(phases, target, plans_elsewhere=not is_here)
    text = f"{plan_text(built.plan, name)}\n\n{text_table(built.plan.checks)}"
    report = _report(built, name, output_directory)
    if any(check.result == "failed" for check in built.plan.checks):
        print_text(f"{text}{report}")
        fail_together(built.answers, needs_network=False)
    return PlanResult(text=text + report, plan=built.plan)


def _this_machine() -> "Target":
    from tasks.plan.hardware.gpus import gpu_types
    from tasks.plan.hardware.this_machine import this_machine

    return this_machine(list(gpu_types().values()))


def _target() -> "Target | None":
    """Return the hardware that trains, if it is known: this laptop, or pods as small as a laptop."""
    from tasks.plan.hardware.this_machine import cpu_target

    if is_laptop_run():
        return _this_machine()
    return None if SMALL_POD_BYTES is None else cpu_target(SMALL_POD_BYTES)


def _check_and_plan(
    phases: Mapping[str, FineTuneConfig], target: "Target | None", plans_elsewhere: bool = False
) -> "BuiltPlan":
    """Run all checks in parallel, then build the plan."""
    from tasks.plan.build import build_plan
    from tasks.plan.checks.preflight import answer
    from tasks.plan.checks.questions import alignment_questions, training_questions

    surroundings = _surroundings(list(phases.values()), target, plans_elsewhere)
    if "train" in phases:
        questions = training_questions(phases["train"], surroundings)
    else:
        questions = alignment_questions(phases, surroundings)
    return build_plan(phases, answer(questions), target)


def _surroundings(
    phases: Sequence[FineTuneConfig], target: "Target | None", plans_elsewhere: bool = False
) -> "Surroundings":
    from tasks.plan.build import parameter_counts
    from tasks.plan.checks.surroundings import Surroundings

    tracker = phases[-1].train.tracking.tracker
    return Surroundings(
        is_laptop=is_laptop_run(),
        token=read_hub_token(),
        token_sources=HUB_TOKEN_SOURCES,
        tracker_secrets=read_tracker_secrets(tracker),
        tracker_sources=tracker_sources(tracker),
        filesystem_of=filesystem_of,
        scratch=Path(tempfile.gettempdir()),
        plans_elsewhere=plans_elsewhere,
        parameters_of=parameter_counts,
        device=PLAIN_CPU if target is None else target.device,
    )


def _show_and_verify(built: "BuiltPlan", name: str, output_directory: str) -> None:
    """Show the plan in a Deck, and its warnings and verdicts in the log; stop the run if a check failed."""
    from tasks.decks.plan import verdict
    from tasks.plan.checks.preflight import fail_together, text_table

    report = _report(built, name, output_directory)
    if any(answer.error is not None for answer in built.answers):
        print_text(f"{text_table(built.plan.checks)}{report}\n")
    for warning in built.plan.warnings:
        print_line(f"warning: {warning}")
    fail_together(built.answers, needs_network=True)
    lines = [f"plan: {verdict(stage)}" for stage in built.plan.stages]
    print_text("\n".join(lines) + report)


def _report(built: "BuiltPlan", name: str, output_directory: str) -> str:
    """Show the plan in a Deck, which is kept if the task fails; on a laptop also write it, and return a line with its
    path."""
    from tasks.decks import html
    from tasks.decks.data import render_failures
    from tasks.decks.plan import render_plan
    from tasks.files.whole_files import write_whole

    failures = [case for answer in built.answers for case in getattr(answer.error, "failures", [])]
    body = render_plan(built.plan, name) + (render_failures(failures) if failures else "")
    Deck("plan", html.fragment(body))
    if not is_laptop_run():
        Deck.publish()
        return ""
    # a plan alone must not change the folder of a run
    run = laptop_run.unfinished_folder()
    page = Path(output_directory) / f"{name}.plan.html" if run is None else run / "plan.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, html.document(f"Plan: {name}", body))
    except OSError as error:
        return f"\nplan.html: could not be written to {one_line(page.parent)} ({error.strerror})"
    return f"\nplan.html: {one_line(page)}"


def _with_run_name(config: FineTuneConfig) -> FineTuneConfig:
    from tasks.plan.checks import tracking

    execution = "" if is_laptop_run() else flytekit.current_context().execution_id.name
    return config.model_copy(update={"train": tracking.with_run_name(config.train, config.name, execution)})


def _size_gib(built: "BuiltPlan") -> int:
    """Return the size of the base's weights in GiB, rounded up."""
    return -(-built.value("model files").weight_bytes // 2**30)


def _artifacts(config: FineTuneConfig) -> list[PushedArtifact]:
    return config.push_to_hub.artifacts if config.push_to_hub.repository else []
