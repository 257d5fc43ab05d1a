"""The trainings of an alignment: SFT, perhaps a reward model, then the policy, each of them from the SFT model."""

from typing import NamedTuple, Optional

from flytekit import dynamic
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Shard, TokenReport, TrainReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.plan.outputs import divide
from tasks.runtime.pods import DECK_FIELDS, SMALL
from tasks.runtime.shown_errors import shows_errors
from tasks.tokenize.task import check_same_tokenizer, require_same_tokenizer
from workflows.prepare_tokens import PreparedTokens, prepare_tokens
from workflows.score import Tokens, joined, score, score_others, score_prompting
from workflows.tune import (
    published_artifacts,
    quantize_and_score,
    show_steps,
    train_and_merge,
    training_steps,
)


class TrainedPhases(NamedTuple):
    """All models of an alignment, with their scores and tables of rows.

    Lists of `reward` have one item; none without a reward model.

    `reports` has one report for each phase, in their order; `artifacts` are to be published.
    """

    model: FlyteDirectory
    adapter: FlyteDirectory
    sft_model: FlyteDirectory
    reward_models: list[FlyteDirectory]
    reports: list[TrainReport]
    reward_data: list[DataReport]
    reward_tokens: list[TokenReport]
    evaluation: Evaluation
    rows: StructuredDataset
    sft_evaluation: Evaluation
    sft_rows: StructuredDataset
    reward_evaluations: list[Evaluation]
    quantized_models: list[FlyteDirectory]
    quantized: list[Evaluation]
    quantized_rows: list[StructuredDataset]
    artifacts: list[FlyteDirectory]
    rivals: list[str]
    rival_evaluations: list[Evaluation]
    rival_rows: list[StructuredDataset]


def _prepare_reward(
    config: FineTuneConfig,
    chat_template: Optional[str],
    contamination: list[str],
    shards: list[Shard],
    tokenizer: FlyteDirectory,
) -> PreparedTokens:
    work = divide(shards, config.data.shards)
    prepared: PreparedTokens = prepare_tokens(
        data=config.data,
        tokenize=config.tokenize,
        objective=config.train.objective,
        trust_remote_code=config.model.trust_remote_code,
        chat_template=chat_template,
        contamination=contamination,
        shards=work.shards,
        mapped_shards=work.mapped_shards,
        mapped_parts=work.mapped_parts,
        tokenizer=tokenizer,
    ).with_overrides(node_name="reward-data")
    return prepared


def _steps(sft: FineTuneConfig, reward: list[FineTuneConfig], policy: FineTuneConfig) -> list[str]:
    rows = ["reward-data", "same-tokenizer"] if reward else []
    scorers = [step for config in reward for step in (*training_steps(config, "reward-"), "evaluate-reward-model")]
    return [*rows, *training_steps(sft, "sft-"), *scorers, "evaluate-sft", *training_steps(policy, "policy-")]


@dynamic(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def train_phases(
    sft: FineTuneConfig,
    sft_deepspeed_json: str,
    sft_train_tokens: FlyteDirectory,
    sft_test_tokens: FlyteDirectory,
    sft_tokenizer: FlyteDirectory,
    sft_token_report: TokenReport,
    reward: list[FineTuneConfig],
    reward_deepspeed_json: str,
    reward_contamination: list[str],
    reward_shards: list[Shard],
    chat_template: Optional[str],
    policy: FineTuneConfig,
    policy_deepspeed_json: str,
    policy_train_tokens: FlyteDirectory,
    policy_test_tokens: FlyteDirectory,
    policy_tokenizer: FlyteDirectory,
    policy_token_report: TokenReport,
    base: FlyteDirectory,
    rewards_version: str,
    scores_version: str,
    train_rows: StructuredDataset,
    test_rows: StructuredDataset,
    base_tokenizer: FlyteDirectory,
    other_revisions: list[str],
    model_gib: int,
) -> TrainedPhases:
    """Train, merge and score all phases, and quantize the last one's model. The reward model's rows come first."""
    show_steps(policy, _steps(sft, reward, policy))
    sft_tokens = Tokens(sft_train_tokens, sft_test_tokens, sft_tokenizer, sft_token_report)
    tokens = Tokens(policy_train_tokens, policy_test_tokens, policy_tokenizer, policy_token_report)
    prepared = [
        _prepare_reward(config, chat_template, reward_contamination, reward_shards, sft_tokenizer) for config in reward
    ]
    if prepared:
        checked = check_same_tokenizer(
            sft=sft_token_report, reward=[made.report for made in prepared], policy=policy_token_report
        ).with_overrides(node_name="same-tokenizer")
        # training waits for the check, because it takes the report from there
        sft_tokens, tokens = sft_tokens._replace(report=checked.sft), tokens._replace(report=checked.policy)
    else:
        require_same_tokenizer([sft_token_report, policy_token_report])

    rivals = joined(
        score_prompting(policy, base, tokens, train_rows, test_rows, chat_template, scores_version),
        score_others(policy, base, base_tokenizer, test_rows, chat_template, other_revisions, scores_version),
    )
    first = train_and_merge(sft, sft_deepspeed_json, base, sft_tokens, [], rewards_version, model_gib, phase="sft-")
    reward_models, reward_reports, reward_evaluations = [], [], []
    for config, made in zip(reward, prepared, strict=True):
        pairs = Tokens(made.train, made.test, policy_tokenizer, made.report)
        scorer = train_and_merge(config, reward_deepspeed_json, first.model, pairs, [], "", model_gib, phase="reward-")
        reward_models.append(scorer.model)
        reward_reports.append(scorer.report)
        reward_evaluations.append(score("reward_model", config, scorer.model, pairs.to_score(), [], "").evaluation)
    sft_scored = score("sft", policy, first.model, tokens.to_score(), reward_models, scores_version)
    trained = train_and_merge(
        policy, policy_deepspeed_json, first.model, tokens, reward_models, rewards_version, model_gib, phase="policy-"
    )
    scored = score("tuned", policy, trained.model, tokens.to_score(), reward_models, scores_version)
    quantized = quantize_and_score(policy, trained.model, tokens, reward_models, scores_version, model_gib)
    return TrainedPhases(
        model=trained.model,
        adapter=trained.adapter,
        sft_model=first.model,
        reward_models=reward_models,
        reports=[first.report, *reward_reports, trained.report],
        reward_data=[made.data for made in prepared],
        reward_tokens=[made.report for made in prepared],
        evaluation=scored.evaluation,
        rows=scored.rows,
        sft_evaluation=sft_scored.evaluation,
        sft_rows=sft_scored.rows,
        reward_evaluations=reward_evaluations,
        quantized_models=quantized.models,
        quantized=quantized.evaluations,
        quantized_rows=quantized.rows,
        artifacts=published_artifacts(policy, trained, quantized.models),
        rivals=rivals.names,
        rival_evaluations=rivals.evaluations,
        rival_rows=rivals.rows,
    )
