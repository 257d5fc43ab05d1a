"""Train, merge, evaluate: what every training has in common, from tokens to a scored model."""

from typing import NamedTuple

from flytekit import workflow
from flytekit.types.directory import FlyteDirectory

from configs.schema import EvaluateConfig, ModelConfig, RewardFunctionConfig, TrainConfig
from configs.schema.train import Method
from configs.wire import Evaluation, TokenReport, TrainReport
from tasks.evaluate.task import evaluate
from tasks.train.task import merge, train


class TunedModel(NamedTuple):
    """A trained model, merged, with its scores. `adapter` is what training wrote: the model itself for method full."""

    model: FlyteDirectory
    adapter: FlyteDirectory
    report: TrainReport
    evaluation: Evaluation


@workflow
def train_and_evaluate(
    label: str,
    train_config: TrainConfig,
    method: Method,
    evaluate_config: EvaluateConfig,
    deepspeed_json: str,
    loading: ModelConfig,
    base: FlyteDirectory,
    tokens: FlyteDirectory,
    held_out: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    end_token_ids: list[int],
    rewards: list[RewardFunctionConfig],
    reward_models: list[FlyteDirectory],
    rewards_version: str,
) -> TunedModel:
    """Train a model, merge its adapter into the base, and score it on the held-out rows.

    Args:
        label: Name of the model in logs and Decks.
        train_config: What is trained, and how.
        method: The method of `train_config`; what training wrote is merged accordingly.
        evaluate_config: How the model is scored.
        deepspeed_json: Text of the user's own DeepSpeed file; empty without one.
        loading: How the base model is loaded.
        base: The model that training begins with.
        tokens: Training rows as token ids.
        held_out: Held-out rows as token ids.
        tokenizer: The tokenizer's files.
        token_report: What tokenizing found: lengths, new tokens, end tokens.
        end_token_ids: Tokens that end an answer.
        rewards: Functions that reward generated answers.
        reward_models: Models that reward generated answers.
        rewards_version: Hash of the project's reward functions, which cached results depend on.
    """
    trained = train(
        config=train_config,
        deepspeed_json=deepspeed_json,
        loading=loading,
        model=base,
        tokens=tokens,
        held_out=held_out,
        tokenizer=tokenizer,
        token_report=token_report,
        reward_models=reward_models,
        rewards_version=rewards_version,
    )
    model = merge(method=method, loading=loading, base=base, trained=trained.model)
    scored = evaluate(
        label=label,
        config=evaluate_config,
        loading=loading,
        model=model,
        tokens=held_out,
        tokenizer=tokenizer,
        end_token_ids=end_token_ids,
        rewards=rewards,
        reward_models=reward_models,
        rewards_version=rewards_version,
    )
    return TunedModel(model=model, adapter=trained.model, report=trained.report, evaluation=scored)
