"""Which questions a config raises before anything runs: of its model, its rows, its machine, and who else is to answer.

The answers are the business of the modules that are asked; here is which of them, by what name, and what waits for
what. The names of the questions are those of docs/plan.md. What they import is imported before they are asked: two
threads that import parts of one library at the same time may find each other's half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from configs.combinations import fault_of_heads
from configs.errors import ConfigError, FineTuneError
from configs.schema import FineTuneConfig
from configs.schema.cluster import DEEPSPEED
from configs.schema.train import ONLINE
from tasks.files.model_files import check_files
from tasks.plan.checks import settings
from tasks.plan.checks.preflight import Finding, Question
from tasks.plan.checks.surroundings import Base, Surroundings, base_model
from tasks.plan.checks.token_checks import text_settings
from tasks.plan.checks.token_questions import row_facts, token_questions
from tasks.plan.hardware import disk
from tasks.plan.resolve import models

__all__ = ["Base", "Surroundings", "alignment_questions", "base_model", "questions", "row_facts"]

_GIB = 2**30


def questions(config: FineTuneConfig, surroundings: Surroundings, base: Base | None = None) -> list[Question]:
    """Return the questions of one training, in the order in which they are shown.

    `base` is that of an earlier stage of the same run, whose questions of the model are then not asked again.
    """
    model = base or base_model(config.model, surroundings.token)
    asked = [] if base is not None else _of_model(model, config)
    stage = [
        *_of_settings(config, surroundings, model),
        *token_questions(config, model, surroundings),
        *_of_machine(config, surroundings, model),
        *_of_services(config, surroundings),
    ]
    prefix = f"{surroundings.stage}: " if surroundings.stage else ""
    return asked + [replace(each, name=prefix + each.name) for each in stage]


def alignment_questions(stages: Mapping[str, FineTuneConfig], surroundings: Surroundings) -> list[Question]:
    """Return the questions of all stages of an alignment; the model is asked for once.

    Names begin with the stage's, such as `sft: first rows`, but those of the base model.
    """
    asked: list[Question] = []
    base: Base | None = None
    for name, config in stages.items():
        has_reward_model = name == "policy" and "reward" in stages
        around = replace(surroundings, stage=name, has_reward_model=has_reward_model)
        if base is None:
            base = base_model(config.model, surroundings.token)
            asked += _of_model(base, config)
        asked += questions(config, around, base)
    return asked


def _of_model(base: Base, config: FineTuneConfig) -> list[Question]:
    from tasks.plan.shapes.supported import check_architecture

    model = base.config

    def files() -> Finding:
        resolved = base.resolved.own()
        weights = resolved.weight_bytes
        size = f"{weights / _GIB:.2f} GiB" if weights > _GIB / 10 else f"{weights / 2**20:.1f} MiB"
        return Finding(f"{size} of weights, revision {resolved.revision[:12]}", resolved)

    def of_files(ask: Callable[[models.ModelFiles], Finding]) -> Callable[[], Finding]:
        def asked() -> Finding:
            found = base.files.needed()
            return Finding("made by the project itself") if found is None else ask(found)

        return asked

    def allowed(found: models.ModelFiles, other: str, said: str) -> Finding:
        check_files(model.model_copy(update={other: True}), _whole(found), list(found.settings.values()))
        return Finding(said)

    def architecture(found: models.ModelFiles) -> Finding:
        content = found.settings.get("config.json", {})
        return Finding(check_architecture(model, content, config.train.objective), content)

    def license_(found: models.ModelFiles) -> Finding:
        said = models.license_of(found)
        fix = "read the model's page before you publish what is made of it"
        return Finding(said, said, warning=said if said == models.NOT_STATED else "", fix=fix)

    code = "allowed by model.trust_remote_code" if model.trust_remote_code else "none"
    weights = "pickled ones allowed by the config" if model.allow_pickled_weights else "safetensors"
    return [
        Question("model files", files, base.seconds),
        Question("architecture", of_files(architecture)),
        Question("license", of_files(license_)),
        Question("remote code", of_files(lambda found: allowed(found, "allow_pickled_weights", code))),
        Question("weights format", of_files(lambda found: allowed(found, "trust_remote_code", weights))),
    ]


def _whole(found: models.ModelFiles) -> list[str]:
    """Return the files' names, and those of files whose absence `model files` reports."""
    has_weights = any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in found.sizes)
    return [*found.sizes, "config.json", "tokenizer.json", *([] if has_weights else ["model.safetensors"])]


def _of_settings(config: FineTuneConfig, around: Surroundings, base: Base) -> list[Question]:
    from tasks.rewards.functions import rewards_hash

    train = config.train

    def batch() -> Finding:
        settings.check_topology(train)
        return Finding(f"{train.batch_size} rows a step, nodes {train.nodes} x {train.processes_per_node} processes")

    def deepspeed() -> Finding:
        return Finding("agrees with the config", settings.read_deepspeed(train))

    def rewards() -> Finding:
        settings.check_rewards(train, around.has_reward_model)
        return Finding(f"functions: {len(train.policy.rewards)}", rewards_hash(train.policy.rewards))

    def heads() -> Finding:
        found = base.files.needed()
        # of a model of several parts, those of the language model
        model = {} if found is None else text_settings(found.settings["config.json"])
        fault = fault_of_heads(train.processes_per_node, model)
        if fault is not None:
            raise ConfigError(fault)
        return Finding(f"divide among {train.processes_per_node} processes")

    asked = [Question("batch and machines", batch)]
    if train.deepspeed.config is not None:
        asked.append(Question("deepspeed file", deepspeed))
    if train.objective in ONLINE or train.policy.rewards:
        asked.append(Question("rewards", rewards))
    if train.sharding == "tensor_parallel":
        asked.append(Question("attention heads", heads))
    return asked


def _of_machine(config: FineTuneConfig, around: Surroundings, base: Base) -> list[Question]:
    train = config.train

    def here() -> Finding:
        settings.check_local_processes(train)
        return Finding(f"{train.processes_per_node} processes on this machine")

    def quantization() -> Finding:
        asked = settings.quantization_settings(config)
        if around.runs_here:
            settings.check_quantization(config)
            return Finding(f"{', '.join(asked)}: installed here")
        return Finding(f"{', '.join(asked)}: in the images of the tasks that quantize")

    def packages() -> Finding:
        settings.check_deepspeed_package(train)
        return Finding(f"deepspeed for train.sharding={train.sharding}")

    def output() -> Finding:
        settings.check_output_directory(config)
        return Finding(config.output_directory)

    def space() -> Finding:
        resolved = base.resolved.needed()
        parameters, trained = _sizes(resolved, config, around)
        kept = disk.kept_checkpoint_bytes(parameters, trained, train, around.device)
        required = disk.required_disk_bytes(resolved.weight_bytes, config, kept)
        disk.check_disk(around.scratch, required)
        return Finding(f"{required / _GIB:.2f} GiB for models and {train.checkpoint.keep + 1} checkpoints", required)

    asked = [Question("quantization", quantization)] if settings.quantization_settings(config) else []
    if around.runs_here:
        asked.append(Question("processes here", here))
        if train.sharding in DEEPSPEED:
            asked.append(Question("packages", packages))
        asked += [Question("output folder", output), Question("disk", space, base.seconds)]
    return asked


def _sizes(resolved: models.ResolvedModel, config: FineTuneConfig, around: Surroundings) -> tuple[int, int]:
    """Return (all, trained) parameters; of an adapter nothing where the caller cannot say, and it is small."""
    if around.parameters_of is not None and resolved.settings:
        # the shape is another check's business: of a model with code of its own, or a wrong setting, its files' size
        with suppress(FineTuneError):
            return around.parameters_of(resolved.settings, config)
    said = str(resolved.settings.get("dtype") or resolved.settings.get("torch_dtype") or "float32")
    return resolved.weight_bytes // (4 if said == "float32" else 2), 0


def _of_services(config: FineTuneConfig, around: Surroundings) -> list[Question]:
    from tasks.plan.checks.tracking import check_tracking
    from tasks.plan.resolve.hub import check_push_access

    push, tracking = config.push_to_hub, config.train.tracking

    def access() -> Finding:
        warnings = check_push_access(str(push.repository), around.token, around.token_sources, push.artifacts)
        fix = "look at the owner in push_to_hub.repository, and at the token's user"
        return Finding(f"the token may write to {push.repository}", warnings, "\n".join(warnings), fix)

    def tracker() -> Finding:
        is_here = around.runs_here
        check_tracking(tracking, around.tracker_secrets, around.tracker_sources, around.filesystem_of, is_here)
        return Finding(f"{tracking.tracker} takes runs")

    asked = [] if push.repository is None else [Question("hub access", access)]
    return asked + ([] if tracking.tracker == "none" else [Question("tracker", tracker)])
