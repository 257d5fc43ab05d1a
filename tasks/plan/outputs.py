"""What the plan's tasks return: the plan, and the config in the parts that later tasks read."""

from typing import NamedTuple

from configs.objectives import Objective
from configs.schema import (
    DataConfig,
    EvaluateConfig,
    FineTuneConfig,
    ModelConfig,
    RewardFunctionConfig,
    TokenizeConfig,
    TrainConfig,
)
from configs.schema.align import AlignConfig
from configs.schema.train import Method
from configs.wire import Part, Shard
from configs.wire_plan import Plan


class Planned(NamedTuple):
    """The plan, what was resolved, and the config: whole, and in the parts that later tasks read.

    A workflow could read these parts from its own input. But then, on a cluster, a field that a form leaves out would
    be missing instead of having its default, and a part that Flyte extracts would have its keys in any order: Flyte
    versions that hash the bytes would not find cached steps again.
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
    """Each phase's config and the shards of its rows, whole and in parts for the reasons given in `Planned`.

    Fields of `reward` are empty if no phase trains a reward model.
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
