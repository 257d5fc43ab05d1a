"""SFT, then preferences or rewards. Every later phase starts from the SFT model.

pyflyte run workflows/align.py align --config configs/presets/align-demo.yaml

The rows of all phases are checked and tokenized before the first one trains, so that faulty preferences stop the run
within minutes, and not after the SFT.
"""

from typing import NamedTuple, Optional

from flytekit import dynamic, workflow
from flytekit.types.directory import FlyteDirectory

from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.wire import Evaluation, Part, PhaseReport, Shard, TokenReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.evaluate.task import compare, evaluate
from tasks.get_model.task import get_model
from tasks.plan.task import plan_alignment
from tasks.report.task import AlignResult, report_phase, write_alignment_report
from tasks.runtime.pods import SMALL
from tasks.tokenize.task import check_same_tokenizer
from tasks.train.task import merge, train
from workflows.forms import ALIGN_DEMO, open_form_with
from workflows.prepare_tokens import prepare_tokens
from workflows.publish import push_all, quantize_all
from workflows.train_and_evaluate import train_and_evaluate


class RewardTokens(NamedTuple):
    """What a reward model learns from. Lists of one item; empty where the run trains no reward model."""

    train: list[FlyteDirectory]
    test: list[FlyteDirectory]
    reports: list[TokenReport]
    phases: list[PhaseReport]


class RewardModels(NamedTuple):
    """The reward model with its scores and reports. Lists of one item; empty where the run trains none."""

    models: list[FlyteDirectory]
    evaluations: list[Evaluation]
    phases: list[PhaseReport]


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def prepare_reward_tokens(
    configs: list[FineTuneConfig],
    chat_template: Optional[str],
    contamination: list[str],
    shards: list[Shard],
    parts: list[Part],
    tokenizer: FlyteDirectory,
) -> RewardTokens:
    """Check and tokenize the rows of the reward model, if the run trains one."""
    prepared = [
        prepare_tokens(
            data=config.data,
            tokenize=config.tokenize,
            objective=config.train.objective,
            trust_remote_code=config.model.trust_remote_code,
            chat_template=chat_template,
            contamination=contamination,
            shards=shards,
            parts=parts,
            tokenizer=tokenizer,
        )
        for config in configs
    ]
    return RewardTokens(
        train=[tokens.train for tokens in prepared],
        test=[tokens.test for tokens in prepared],
        reports=[tokens.report for tokens in prepared],
        phases=[
            report_phase(name="reward", data=tokens.data, tokens=tokens.report, training=[]) for tokens in prepared
        ],
    )


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def train_reward_models(
    configs: list[FineTuneConfig],
    model: FlyteDirectory,
    tokens: list[FlyteDirectory],
    held_out: list[FlyteDirectory],
    tokenizer: FlyteDirectory,
    token_reports: list[TokenReport],
    phases: list[PhaseReport],
    deepspeed_json: str,
) -> RewardModels:
    """Train the reward model from the SFT model, and score it on its held-out preferences."""
    models, evaluations, reports = [], [], []
    for config, rows, test, report, phase in zip(configs, tokens, held_out, token_reports, phases, strict=True):
        tuned = train_and_evaluate(
            label="reward_model",
            train_config=config.train,
            method=config.train.method,
            evaluate_config=config.evaluate,
            deepspeed_json=deepspeed_json,
            loading=config.model,
            base=model,
            tokens=rows,
            held_out=test,
            tokenizer=tokenizer,
            token_report=report,
            end_token_ids=report.end_token_ids,
            rewards=[],
            reward_models=[],
            rewards_version="",
        )
        models.append(tuned.model)
        evaluations.append(tuned.evaluation)
        reports.append(report_phase(name="reward", data=phase.data, tokens=report, training=[tuned.report]))
    return RewardModels(models=models, evaluations=evaluations, phases=reports)


@workflow
def align(config: AlignConfig) -> AlignResult:
    """Align a language model: SFT, then DPO or KTO; or SFT, a reward model, then RLOO or GRPO.

    Every later phase starts from the SFT model. The rows of all phases are checked and tokenized before the first
    one trains. Base, SFT and aligned model are scored on the same held-out rows.

    Args:
        config: The base model, and rows and settings of the phases `sft`, `policy` and, where needed, `reward`.
    """
    plan = plan_alignment(config=config)
    base = get_model(config=plan.model, revision=plan.plan.model_revision)
    sft_tokens = prepare_tokens(
        data=plan.sft_data,
        tokenize=plan.sft_tokenize,
        objective=plan.sft_objective,
        trust_remote_code=plan.trust_remote_code,
        chat_template=plan.plan.chat_template,
        contamination=plan.sft_contamination,
        shards=plan.sft_shards,
        parts=plan.sft_parts,
        tokenizer=base.tokenizer,
    )
    tokens = prepare_tokens(
        data=plan.policy_data,
        tokenize=plan.policy_tokenize,
        objective=plan.policy_objective,
        trust_remote_code=plan.trust_remote_code,
        chat_template=plan.plan.chat_template,
        contamination=plan.policy_contamination,
        shards=plan.policy_shards,
        parts=plan.policy_parts,
        tokenizer=sft_tokens.tokenizer,
    )
    reward_tokens = prepare_reward_tokens(
        configs=plan.reward,
        chat_template=plan.plan.chat_template,
        contamination=plan.reward_contamination,
        shards=plan.reward_shards,
        parts=plan.reward_parts,
        tokenizer=sft_tokens.tokenizer,
    )
    token_report = check_same_tokenizer(first=sft_tokens.report, others=reward_tokens.reports, last=tokens.report)
    before = evaluate(
        label="base",
        config=plan.evaluate,
        loading=plan.model,
        model=base.model,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        end_token_ids=token_report.end_token_ids,
        rewards=plan.rewards,
        reward_models=[],
        rewards_version=plan.plan.rewards_version,
    )
    sft_trained = train(
        config=plan.sft_train,
        deepspeed_json=plan.sft_deepspeed_json,
        loading=plan.model,
        model=base.model,
        tokens=sft_tokens.train,
        held_out=sft_tokens.test,
        tokenizer=sft_tokens.tokenizer,
        token_report=sft_tokens.report,
        reward_models=[],
        rewards_version=plan.plan.rewards_version,
    )
    sft_model = merge(method=plan.sft_method, loading=plan.model, base=base.model, trained=sft_trained.model)
    reward = train_reward_models(
        configs=plan.reward,
        model=sft_model,
        tokens=reward_tokens.train,
        held_out=reward_tokens.test,
        tokenizer=tokens.tokenizer,
        token_reports=reward_tokens.reports,
        phases=reward_tokens.phases,
        deepspeed_json=plan.reward_deepspeed_json,
    )
    after_sft = evaluate(
        label="sft",
        config=plan.evaluate,
        loading=plan.model,
        model=sft_model,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        end_token_ids=token_report.end_token_ids,
        rewards=plan.rewards,
        reward_models=reward.models,
        rewards_version=plan.plan.rewards_version,
    )
    tuned = train_and_evaluate(
        label="tuned",
        train_config=plan.policy_train,
        method=plan.policy_method,
        evaluate_config=plan.evaluate,
        deepspeed_json=plan.plan.deepspeed_json,
        loading=plan.model,
        base=sft_model,
        tokens=tokens.train,
        held_out=tokens.test,
        tokenizer=tokens.tokenizer,
        token_report=token_report,
        end_token_ids=token_report.end_token_ids,
        rewards=plan.rewards,
        reward_models=reward.models,
        rewards_version=plan.plan.rewards_version,
    )
    is_better = compare(config=plan.evaluate, objective=plan.policy_objective, base=after_sft, tuned=tuned.evaluation)
    quantized = quantize_all(
        config=plan.policy,
        model=tuned.model,
        train_tokens=tokens.train,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        token_report=token_report,
        reward_models=reward.models,
        rewards_version=plan.plan.rewards_version,
    )
    published = push_all(
        config=plan.policy,
        model=tuned.model,
        trained=tuned.adapter,
        quantized_models=quantized.models,
        data=tokens.data,
        is_better=is_better,
        base=after_sft,
        tuned=tuned.evaluation,
        quantized=quantized.evaluations,
    )
    return write_alignment_report(
        config=plan.config,
        plan=plan.plan,
        sft=report_phase(name="sft", data=sft_tokens.data, tokens=sft_tokens.report, training=[sft_trained.report]),
        reward=reward.phases,
        policy=report_phase(name="policy", data=tokens.data, tokens=token_report, training=[tuned.report]),
        base=before,
        sft_evaluation=after_sft,
        reward_evaluations=reward.evaluations,
        tuned=tuned.evaluation,
        quantized=quantized.evaluations,
        model=tuned.model,
        sft_model=sft_model,
        reward_models=reward.models,
        quantized_models=quantized.models,
        published=published,
        adapter=tuned.adapter,
    )


open_form_with(align, config=ALIGN_DEMO)
