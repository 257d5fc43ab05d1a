"""Flyte task: resolve and check everything that can be, in seconds on a CPU, before anything is computed."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import flytekit
from flytekit import task

from configs.schema import (
    DataConfig,
    EvaluateConfig,
    FineTuneConfig,
    ModelConfig,
    RewardFunctionConfig,
    TokenizeConfig,
    TrainConfig,
)
from configs.schema_align import AlignConfig
from configs.schema_train import Method, Objective
from configs.wire import Part, Shard
from configs.wire_plan import Plan
from images.local_cache import forget_lost_outputs
from images.pods import SMALL, filesystem_of, is_laptop_run
from images.secrets import (
    HUB_TOKEN,
    HUB_TOKEN_SOURCES,
    TRACKER_SECRETS,
    read_hub_token,
    read_tracker_secrets,
    tracker_sources,
)
from images.specs import CPU_IMAGE, POD_ENVIRONMENT


class Planned(NamedTuple):
    """What was resolved, and the config again: whole, and in the parts that later tasks read.

    A workflow could read the parts from its own input, but on a cluster what a form leaves out is then missing and not
    its default, and a part that Flyte cuts out has its keys in any order: on Flyte versions that hash the bytes, cached
    steps are not found again.
    """

    plan: Plan
    config: FineTuneConfig
    model: ModelConfig
    data: DataConfig
    tokenize: TokenizeConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    objective: Objective
    method: Method
    trust_remote_code: bool
    contamination: list[str]
    shards: list[Shard]
    parts: list[Part]
    rewards: list[RewardFunctionConfig]


class PlannedAlignment(NamedTuple):
    """Each stage's config and the places of its rows; those of `reward` are empty where no stage trains one.

    Whole and in parts, for the reasons of `Planned`.
    """

    plan: Plan
    config: AlignConfig
    model: ModelConfig
    evaluate: EvaluateConfig
    trust_remote_code: bool
    sft_data: DataConfig
    sft_tokenize: TokenizeConfig
    sft_train: TrainConfig
    sft_objective: Objective
    sft_method: Method
    sft_contamination: list[str]
    sft_shards: list[Shard]
    sft_parts: list[Part]
    sft_deepspeed_json: str
    reward: list[FineTuneConfig]
    reward_contamination: list[str]
    reward_shards: list[Shard]
    reward_parts: list[Part]
    reward_deepspeed_json: str
    policy: FineTuneConfig
    policy_data: DataConfig
    policy_tokenize: TokenizeConfig
    policy_train: TrainConfig
    policy_objective: Objective
    policy_method: Method
    policy_contamination: list[str]
    policy_shards: list[Shard]
    policy_parts: list[Part]
    rewards: list[RewardFunctionConfig]


class Resolved(NamedTuple):
    config: FineTuneConfig
    data: DataConfig
    contamination: list[str]
    shards: list[Shard]


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN],
    environment=POD_ENVIRONMENT,
)
def resolve_data(config: FineTuneConfig) -> Resolved:
    """Check that the data is where the config says; return its shards, and the revisions of `data.contamination`."""
    from tasks.plan import data, settings

    if is_laptop_run():
        settings.check_output_directory(config)
        forget_lost_outputs()
    resolved = data.resolve_data(config.data, read_hub_token())
    return Resolved(config=config, data=config.data, contamination=resolved.contamination, shards=resolved.shards)


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN, *TRACKER_SECRETS],
    environment=POD_ENVIRONMENT,
)
def make_plan(config: FineTuneConfig) -> Planned:
    """Check the config, the model's files, the data's places and the hub token; return what they hold right now."""
    from tasks.plan import data

    _check_settings(config)
    _check_machine(config)
    warnings = _push_warnings(config)
    resolved = data.resolve_data(config.data, read_hub_token())
    return Planned(
        plan=_plan(config, warnings),
        config=config,
        model=config.model,
        data=config.data,
        tokenize=config.tokenize,
        train=_with_run_name(config).train,
        evaluate=config.evaluate,
        objective=config.train.objective,
        method=config.train.method,
        trust_remote_code=config.model.trust_remote_code,
        contamination=resolved.contamination,
        shards=resolved.shards,
        parts=_parts(config),
        rewards=config.train.policy.rewards,
    )


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    secret_requests=[HUB_TOKEN, *TRACKER_SECRETS],
    environment=POD_ENVIRONMENT,
)
def plan_alignment(config: AlignConfig) -> PlannedAlignment:
    """Make the checks of `make_plan` for all stages at once, before the first of them runs."""
    from tasks.plan import data, settings

    token = read_hub_token()
    stages = {name: _with_run_name(config.stage(name)) for name in config.stages()}
    for name, stage in stages.items():
        _check_settings(stage, has_reward_model=name == "policy" and "reward" in stages)
    _check_machine(stages["policy"])
    warnings = _push_warnings(stages["policy"])
    resolved = {name: data.resolve_data(stage.data, token) for name, stage in stages.items()}
    reward = [stages["reward"]] if "reward" in stages else []
    return PlannedAlignment(
        plan=_plan(stages["policy"], warnings),
        config=config,
        model=config.model,
        evaluate=config.evaluate,
        trust_remote_code=config.model.trust_remote_code,
        sft_data=stages["sft"].data,
        sft_tokenize=stages["sft"].tokenize,
        sft_train=stages["sft"].train,
        sft_objective=stages["sft"].train.objective,
        sft_method=stages["sft"].train.method,
        sft_contamination=resolved["sft"].contamination,
        sft_shards=resolved["sft"].shards,
        sft_parts=_parts(stages["sft"]),
        sft_deepspeed_json=settings.read_deepspeed(stages["sft"].train),
        reward=reward,
        reward_contamination=resolved["reward"].contamination if reward else [],
        reward_shards=resolved["reward"].shards if reward else [],
        reward_parts=_parts(reward[0]) if reward else [],
        reward_deepspeed_json=settings.read_deepspeed(reward[0].train) if reward else "",
        policy=stages["policy"],
        policy_data=stages["policy"].data,
        policy_tokenize=stages["policy"].tokenize,
        policy_train=stages["policy"].train,
        policy_objective=stages["policy"].train.objective,
        policy_method=stages["policy"].train.method,
        policy_contamination=resolved["policy"].contamination,
        policy_shards=resolved["policy"].shards,
        policy_parts=_parts(stages["policy"]),
        rewards=stages["policy"].train.policy.rewards,
    )


def _check_machine(config: FineTuneConfig) -> None:
    """Check what a laptop needs to run the config; a cluster has images for that."""
    from tasks.plan import settings

    if not is_laptop_run():
        return
    settings.check_packages(config)
    settings.check_output_directory(config)
    forgotten = forget_lost_outputs()
    if forgotten:
        print(f"{forgotten} cached steps run again: their outputs were deleted from the disk")


def _check_settings(config: FineTuneConfig, has_reward_model: bool = False) -> None:
    from tasks.plan import settings

    if is_laptop_run():
        settings.check_local_processes(config.train)
    settings.check_topology(config.train)
    settings.read_deepspeed(config.train)
    settings.check_rewards(config.train, has_reward_model)
    _check_tracking(config)


def _check_tracking(config: FineTuneConfig) -> None:
    from tasks.plan import tracking

    settings = config.train.tracking
    secrets, sources = read_tracker_secrets(settings.tracker), tracker_sources(settings.tracker)
    tracking.check_tracking(settings, secrets, sources, filesystem_of, is_laptop_run())


def _with_run_name(config: FineTuneConfig) -> FineTuneConfig:
    from tasks.plan import tracking

    execution = "" if is_laptop_run() else flytekit.current_context().execution_id.name
    return config.model_copy(update={"train": tracking.named(config.train, config.name, execution)})


def _push_warnings(config: FineTuneConfig) -> list[str]:
    """Check that the hub takes what is to be pushed; return and print what is worth knowing."""
    if config.push_to_hub.repository is None:
        return []
    from tasks.plan.hub import check_push_access

    warnings = check_push_access(config.push_to_hub.repository, read_hub_token(), HUB_TOKEN_SOURCES)
    for warning in warnings:
        print(f"warning: {warning}")
    return warnings


def _plan(config: FineTuneConfig, warnings: list[str]) -> Plan:
    from tasks.plan import models, settings
    from tasks.rewards.functions import rewards_hash

    model = models.resolve_model(config.model, read_hub_token())
    settings.check_heads(config.train, model.settings)
    if is_laptop_run():
        required = settings.required_disk_bytes(model.weight_bytes, config)
        settings.check_disk(Path(tempfile.gettempdir()), required)
    return Plan(
        model_revision=model.revision,
        chat_template=settings.read_chat_template(config.tokenize.chat_template),
        rewards_version=rewards_hash(config.train.policy.rewards),
        deepspeed_json=settings.read_deepspeed(config.train),
        warnings=warnings,
    )


def _parts(config: FineTuneConfig) -> list[Part]:
    return [Part(number=number, of=config.data.shards) for number in range(config.data.shards)]
