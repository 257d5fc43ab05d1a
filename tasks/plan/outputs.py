"""What the plan's tasks return: the plan, and the config in the parts that later tasks read."""

from typing import NamedTuple, Optional

from configs.artifacts import PushedArtifact
from configs.objectives import Objective
from configs.schema import (
    DataConfig,
    EvaluateConfig,
    FineTuneConfig,
    ModelConfig,
    RewardFunctionConfig,
    TokenizeConfig,
)
from configs.schema.align import AlignConfig
from configs.wire import Part, Shard
from configs.wire_plan import Plan


class Planned(NamedTuple):
    """The plan, what was resolved, and the config: whole, and in the parts that later tasks read.

    A workflow could read these parts from its own input. But then, on a cluster, a field that a form leaves out would
    be missing instead of having its default, and a part that Flyte extracts would have its keys in any order: Flyte
    versions that hash the bytes would not find cached steps again.

    Lists called `mapped_` become one pod per item. They are empty where a single pod does all the work beside its own,
    and `artifacts` is empty if nothing is to be published. `scored_parts` are those of the base that pods of one GPU
    score.
    """

    plan: Plan
    config: FineTuneConfig
    model: ModelConfig
    data: DataConfig
    tokenize: TokenizeConfig
    objective: Objective
    trust_remote_code: bool
    contamination: list[str]
    shards: list[Shard]
    mapped_shards: list[Shard]
    mapped_parts: list[Part]
    artifacts: list[PushedArtifact]
    base_revision: str
    model_gib: int
    evaluate: EvaluateConfig
    evaluate_gpus: int
    scored_parts: list[Part]
    rewards: list[RewardFunctionConfig]


class PlannedAlignment(NamedTuple):
    """Each phase's config and the shards of its rows, whole and in parts for the reasons given in `Planned`.

    Fields of `reward` are empty if no phase trains a reward model.
    """

    plan: Plan
    config: AlignConfig
    model: ModelConfig
    trust_remote_code: bool
    sft: FineTuneConfig
    sft_data: DataConfig
    sft_tokenize: TokenizeConfig
    sft_objective: Objective
    sft_contamination: list[str]
    sft_shards: list[Shard]
    sft_mapped_shards: list[Shard]
    sft_mapped_parts: list[Part]
    sft_deepspeed_json: str
    reward: list[FineTuneConfig]
    reward_contamination: list[str]
    reward_shards: list[Shard]
    reward_deepspeed_json: str
    policy: FineTuneConfig
    policy_data: DataConfig
    policy_tokenize: TokenizeConfig
    policy_objective: Objective
    policy_contamination: list[str]
    policy_shards: list[Shard]
    policy_mapped_shards: list[Shard]
    policy_mapped_parts: list[Part]
    artifacts: list[PushedArtifact]
    base_revision: str
    model_gib: int
    evaluate: EvaluateConfig
    evaluate_gpus: int
    scored_parts: list[Part]
    rewards: list[RewardFunctionConfig]


class Resolved(NamedTuple):
    """A config whose data exists, with the shards that its pod of rows reads and those that have pods of their own."""

    config: FineTuneConfig
    data: DataConfig
    contamination: list[str]
    shards: list[Shard]
    mapped_shards: list[Shard]


class PlannedEvaluation(NamedTuple):
    """What an evaluation alone needs, once all that a CPU can check is checked; its shards are as in `Planned`.

    `model_revision` is empty where no model is named, and `other_revisions` has an empty text for each endpoint.
    """

    config: FineTuneConfig
    evaluate: EvaluateConfig
    data: DataConfig
    contamination: list[str]
    shards: list[Shard]
    mapped_shards: list[Shard]
    model_revision: str
    other_revisions: list[str]
    chat_template: Optional[str]
    scores_version: str


class Work(NamedTuple):
    """The rows' work, divided: shards that one pod reads itself, and shards and parts with a pod each."""

    shards: list[Shard]
    mapped_shards: list[Shard]
    mapped_parts: list[Part]


def divide(shards: list[Shard], num_parts: int) -> Work:
    """Return which shards and parts get a pod of their own: all of them, or none where there is a single one."""
    is_mapped = len(shards) > 1
    return Work([] if is_mapped else shards, shards if is_mapped else [], parts_of(num_parts))


def parts_of(number: int) -> list[Part]:
    """Return the parts that get a pod of their own: `number` of them, or none where there is a single one."""
    return [Part(number=place, of=number) for place in range(number)] if number > 1 else []


def base_parts(config: EvaluateConfig) -> list[Part]:
    """Return the parts of the base's rows that pods of one GPU score; those with more GPUs are started elsewhere."""
    return parts_of(config.shards if config.gpus == 1 else 1)
