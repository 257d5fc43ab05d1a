"""Lists the questions to ask about a config before anything runs: its model, rows, settings, machine and services.

Other modules find the answers; this one decides which questions to ask, under which names (those of docs/plan.md), and
which wait for another's value. Modules that the questions need are imported before their threads start: two threads
that import parts of one library at the same time may see it half imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from configs.combinations import fault_of_heads
from configs.errors import ConfigError, FineTuneError, UnreachableError
from configs.objectives import ONLINE
from configs.schema import FineTuneConfig
from configs.schema.cluster import DEEPSPEED
from tasks.files.apart import check_apart, check_repository
from tasks.files.model_files import check_files, loaded_weights
from tasks.models.generation_flags import flags_without_effect
from tasks.plan.checks import settings
from tasks.plan.checks.evaluation import check_evaluation
from tasks.plan.checks.others import check_others
from tasks.plan.checks.preflight import READING_SECONDS, Finding, NotCheckedError, Question
from tasks.plan.checks.surroundings import Base, Surroundings, base_model
from tasks.plan.checks.token_checks import text_settings
from tasks.plan.checks.token_questions import first_rows_of, token_questions
from tasks.plan.hardware import disk
from tasks.plan.resolve import models
from tasks.plan.resolve.headers import read_tensors

__all__ = [
    "Base",
    "Surroundings",
    "alignment_questions",
    "base_model",
    "evaluation_questions",
    "first_rows_of",
    "model_questions",
    "training_questions",
]

WEIGHTS = "weights"
"""The question whose value is the tensors of the weight files."""
_GIB = 2**30


def training_questions(config: FineTuneConfig, surroundings: Surroundings, base: Base | None = None) -> list[Question]:
    """Return the questions about one training, in the order of the table.

    `base` is the base model of an earlier phase of the same run, about which the model's questions are asked already.
    """
    model = base or base_model(config.model, surroundings.token)
    about_model = [] if base is not None else model_questions(model, config)
    about_training = [
        *_settings_questions(config, surroundings, model),
        *evaluation_questions(config, surroundings),
        *token_questions(config, model, surroundings),
        *_machine_questions(config, surroundings, model),
        *_service_questions(config, surroundings),
    ]
    prefix = f"{surroundings.phase}: " if surroundings.phase else ""
    return about_model + [replace(question, name=prefix + question.name) for question in about_training]


def alignment_questions(phases: Mapping[str, FineTuneConfig], surroundings: Surroundings) -> list[Question]:
    """Return the questions about all phases of an alignment; those about the base model are asked once.

    Other names begin with their phase, such as `sft: first rows`.
    """
    questions: list[Question] = []
    base: Base | None = None
    for phase, config in phases.items():
        has_reward_model = phase == "policy" and "reward" in phases
        phase_surroundings = replace(surroundings, phase=phase, has_reward_model=has_reward_model)
        if base is None:
            base = base_model(config.model, surroundings.token)
            questions += model_questions(base, config)
        questions += training_questions(config, phase_surroundings, base)
    return questions


def model_questions(base: Base, config: FineTuneConfig) -> list[Question]:
    """Return the questions about the base model's files."""
    from tasks.plan.shapes.supported import check_architecture

    model = base.config

    def files() -> Finding:
        resolved = base.resolved.value()
        weights = resolved.weight_bytes
        size = f"{weights / _GIB:.2f} GiB" if weights > _GIB / 10 else f"{weights / 2**20:.1f} MiB"
        return Finding(f"{size} of weights, revision {resolved.revision[:12]}", resolved)

    def of_files(check: Callable[[models.ModelFiles], Finding]) -> Callable[[], Finding]:
        def check_files_if_any() -> Finding:
            model_files = base.files.needed()
            return Finding("made by the project itself") if model_files is None else check(model_files)

        return check_files_if_any

    def permission(model_files: models.ModelFiles, other: str, found: str) -> Finding:
        names = _completed_names(model_files)
        check_files(model.model_copy(update={other: True}), names, list(model_files.settings.values()))
        return Finding(found)

    def architecture(model_files: models.ModelFiles) -> Finding:
        content = model_files.settings.get("config.json", {})
        return Finding(check_architecture(model, content, config.train.objective), content)

    def license_(model_files: models.ModelFiles) -> Finding:
        name = models.license_of(model_files)
        fix = "read the model's page before you publish a model made from it"
        return Finding(name, name, warning=name if name == models.NOT_STATED else "", fix=fix)

    code = "allowed by model.trust_remote_code" if model.trust_remote_code else "none"
    weights = "pickled ones allowed by the config" if model.allow_pickled_weights else "safetensors"
    return [
        Question("model files", files, base.seconds),
        Question("architecture", of_files(architecture)),
        Question("license", of_files(license_)),
        Question("remote code", of_files(lambda files: permission(files, "allow_pickled_weights", code))),
        Question("weights format", of_files(lambda files: permission(files, "trust_remote_code", weights))),
        Question(WEIGHTS, of_files(lambda files: _weights(base, files)), base.seconds),
        Question("generation settings", of_files(_generation_settings)),
    ]


def _weights(base: Base, files: models.ModelFiles) -> Finding:
    """Find the names and shapes of the tensors in the weight files, which the plan compares with the model's."""
    settings = base.resolved.needed().settings
    names = loaded_weights(files.sizes)
    if not all(name.endswith(".safetensors") for name in names):
        raise NotCheckedError("pickled weights have no header")
    if settings.get("quantization_config"):
        raise NotCheckedError("they are quantized already")
    if "auto_map" in settings:
        raise NotCheckedError("the model's own code decides which it needs")
    try:
        tensors = read_tensors(files.read_header, names)
    except UnreachableError:
        raise NotCheckedError("no network") from None
    return Finding(f"{len(tensors)} tensors", tensors)


def _generation_settings(files: models.ModelFiles) -> Finding:
    """Name the settings that training removes from the model's generation config, because it could not be saved."""
    content = files.json("generation_config.json")
    idle = flags_without_effect(content)
    if not idle:
        return Finding("can be saved as they are" if content else "none; transformers' own are used")
    # vLLM and others take a temperature whether or not do_sample is true
    return Finding(
        "",
        warning="removed from the trained model's generation_config.json, because transformers ignores them when it "
        "generates and refuses to save them: "
        + "; ".join(f"{name}={content[name]} {reason}" for name, reason in idle.items()),
        fix="if they were meant, set do_sample: true in the model's generation_config.json, or give them to the server",
    )


def _completed_names(files: models.ModelFiles) -> list[str]:
    """Return the names of the files, and of required ones whose absence the question `model files` reports."""
    has_weights = any(name.endswith((".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in files.sizes)
    return [*files.sizes, "config.json", "tokenizer.json", *([] if has_weights else ["model.safetensors"])]


def _settings_questions(config: FineTuneConfig, surroundings: Surroundings, base: Base) -> list[Question]:
    from tasks.rewards.functions import rewards_hash

    train = config.train

    def batch() -> Finding:
        settings.check_topology(train)
        return Finding(f"{train.batch_size} rows a step, nodes {train.nodes} x {train.processes_per_node} processes")

    def deepspeed() -> Finding:
        return Finding("agrees with the config", settings.read_deepspeed(train))

    def rewards() -> Finding:
        settings.check_rewards(train, surroundings.has_reward_model)
        return Finding(f"functions: {len(train.policy.rewards)}", rewards_hash(train.policy.rewards))

    def heads() -> Finding:
        files = base.files.needed()
        # a model may have several parts: read the heads of its language model
        model = {} if files is None else text_settings(files.settings["config.json"])
        fault = fault_of_heads(train.processes_per_node, model)
        if fault is not None:
            raise ConfigError(fault)
        return Finding(f"divide among {train.processes_per_node} processes")

    questions = [Question("batch and machines", batch)]
    if train.deepspeed.config is not None:
        questions.append(Question("deepspeed file", deepspeed))
    if train.objective in ONLINE or train.policy.rewards:
        questions.append(Question("rewards", rewards))
    if train.sharding == "tensor_parallel":
        questions.append(Question("attention heads", heads))
    return questions


def evaluation_questions(config: FineTuneConfig, surroundings: Surroundings) -> list[Question]:
    """Return the questions about measures and gate, and about other models."""
    questions = [Question("evaluation", lambda: check_evaluation(config))]
    if config.evaluate.others:
        check = partial(check_others, config, surroundings.token)
        questions.append(Question("other models", check, READING_SECONDS))
    return questions


def _machine_questions(config: FineTuneConfig, surroundings: Surroundings, base: Base) -> list[Question]:
    train = config.train

    def local_processes() -> Finding:
        settings.check_local_processes(train)
        settings.check_local_scoring(config.evaluate)
        number = train.processes_per_node
        return Finding(f"{number} process{'es' if number > 1 else ''} on this machine")

    def quantization() -> Finding:
        names = ", ".join(settings.quantization_settings(config))
        if surroundings.runs_here:
            settings.check_quantization(config)
            return Finding(f"{names}: installed here")
        return Finding(f"{names}: in the images of the tasks that quantize")

    def packages() -> Finding:
        settings.check_deepspeed_package(train)
        return Finding(f"deepspeed for train.sharding={train.sharding}")

    def output() -> Finding:
        settings.check_output_directory(config)
        check_apart(config)
        return Finding(config.output_directory)

    def space() -> Finding:
        resolved = base.resolved.needed()
        parameters, trained = _parameter_counts(resolved, config, surroundings)
        checkpoints = disk.kept_checkpoint_bytes(parameters, trained, train, surroundings.device)
        required = disk.required_disk_bytes(resolved.weight_bytes, config, checkpoints)
        kept = disk.output_bytes(resolved.weight_bytes, config)
        disk.check_disks(surroundings.scratch, required, Path(config.output_directory), kept)
        return Finding(f"{required / _GIB:.2f} GiB for models and {train.checkpoint.keep + 1} checkpoints", required)

    questions = [Question("quantization", quantization)] if settings.quantization_settings(config) else []
    if surroundings.runs_here:
        questions.append(Question("processes here", local_processes))
        if train.sharding in DEEPSPEED:
            questions.append(Question("packages", packages))
        questions += [Question("output folder", output), Question("disk", space, base.seconds)]
    return questions


def _parameter_counts(
    resolved: models.ResolvedModel, config: FineTuneConfig, surroundings: Surroundings
) -> tuple[int, int]:
    """Return the numbers of (all, trained) parameters.

    If the caller cannot compute them, all parameters are estimated from the files' size, and an adapter's few count as
    0.
    """
    if surroundings.parameters_of is not None and resolved.settings:
        # another check reports a shape that cannot be worked out, such as that of a model with its own code
        with suppress(FineTuneError):
            return surroundings.parameters_of(resolved.settings, config)
    dtype = str(resolved.settings.get("dtype") or resolved.settings.get("torch_dtype") or "float32")
    return resolved.weight_bytes // (4 if dtype == "float32" else 2), 0


def _service_questions(config: FineTuneConfig, surroundings: Surroundings) -> list[Question]:
    from tasks.plan.checks.tracking import check_tracking
    from tasks.plan.resolve.hub import check_push_access

    push, tracking = config.push_to_hub, config.train.tracking

    def access() -> Finding:
        check_repository(config.model, push)
        warnings = check_push_access(
            str(push.repository), surroundings.token, surroundings.token_sources, push.artifacts, push.private
        )
        fix = "check the owner in push_to_hub.repository, and the token's user"
        return Finding(f"the token may write to {push.repository}", warnings, "\n".join(warnings), fix)

    def tracker() -> Finding:
        check_tracking(
            tracking,
            surroundings.tracker_secrets,
            surroundings.tracker_sources,
            surroundings.filesystem_of,
            surroundings.runs_here,
        )
        return Finding(f"{tracking.tracker} accepts runs")

    questions = [] if push.repository is None else [Question("hub access", access)]
    return questions + ([] if tracking.tracker == "none" else [Question("tracker", tracker)])
