"""SFT, then preferences or rewards. Every later phase starts from the SFT model.

pyflyte run workflows/align.py align --config configs/presets/align-demo.yaml

The rows of all phases are checked and tokenized before the first one trains, so that faulty preferences stop the run
within minutes, and not after the SFT.
"""

from functools import partial

from flytekit import conditional, map_task, workflow

from configs.schema.align import AlignConfig
from tasks.evaluate.task import evaluate, evaluate_part
from tasks.gate.task import compare_models
from tasks.get_model.task import get_model
from tasks.plan.task import plan_alignment
from tasks.report.task import AlignResult, write_alignment_report
from workflows.forms import ALIGN_DEMO, open_form_with
from workflows.phases import train_phases
from workflows.prepare_tokens import prepare_tokens
from workflows.push import publish
from workflows.score import score_base


@workflow
def align(config: AlignConfig) -> AlignResult:
    """Align a language model: SFT, then DPO or KTO; or SFT, a reward model, then RLOO or GRPO.

    Aligns a language model: supervised fine-tuning, then preferences (DPO, KTO) or rewards (RLOO, GRPO). Every later
    phase starts from the SFT model. The rows of all phases are checked and tokenized before the first one trains.
    Base, SFT and aligned model are scored on the same held-out rows; one that is better than the SFT model is
    published where a repository is named.

    Args:
        config: The base model, and rows and settings of the phases `sft`, `policy` and, where needed, `reward`.
    """
    planned = plan_alignment(config=config).with_overrides(node_name="plan")
    plan = planned.plan
    base = get_model(config=planned.model, revision=plan.model_revision).with_overrides(node_name="model")
    sft_tokens = prepare_tokens(
        data=planned.sft_data,
        tokenize=planned.sft_tokenize,
        objective=planned.sft_objective,
        trust_remote_code=planned.trust_remote_code,
        chat_template=plan.chat_template,
        contamination=planned.sft_contamination,
        shards=planned.sft_shards,
        mapped_shards=planned.sft_mapped_shards,
        mapped_parts=planned.sft_mapped_parts,
        tokenizer=base.tokenizer,
    ).with_overrides(node_name="sft-data")
    tokens = prepare_tokens(
        data=planned.policy_data,
        tokenize=planned.policy_tokenize,
        objective=planned.policy_objective,
        trust_remote_code=planned.trust_remote_code,
        chat_template=plan.chat_template,
        contamination=planned.policy_contamination,
        shards=planned.policy_shards,
        mapped_shards=planned.policy_mapped_shards,
        mapped_parts=planned.policy_mapped_parts,
        tokenizer=sft_tokens.tokenizer,
    ).with_overrides(node_name="policy-data")
    scored_parts = map_task(
        partial(
            evaluate_part,
            label="base",
            config=planned.evaluate,
            loading=planned.model,
            model=base.model,
            tokens=tokens.test,
            tokenizer=tokens.tokenizer,
            end_token_ids=tokens.report.end_token_ids,
            rewards=planned.rewards,
            reward_models=[],
            training_tokens=[],
            code_version=plan.scores_version,
            gpus=1,
        )
    )(part=planned.scored_parts).with_overrides(node_name="evaluate-base-parts")
    before = (
        conditional("evaluate-gpus")
        .if_(planned.evaluate_gpus == 1)
        .then(
            evaluate(
                label="base",
                config=planned.evaluate,
                loading=planned.model,
                model=base.model,
                tokens=tokens.test,
                tokenizer=tokens.tokenizer,
                end_token_ids=tokens.report.end_token_ids,
                rewards=planned.rewards,
                reward_models=[],
                training_tokens=[],
                code_version=plan.scores_version,
                gpus=1,
                parts=scored_parts,
            ).with_overrides(node_name="evaluate-base")
        )
        .else_()
        .then(
            score_base(
                config=planned.policy,
                base=base.model,
                train_tokens=tokens.train,
                test_tokens=tokens.test,
                tokenizer=tokens.tokenizer,
                token_report=tokens.report,
                scores_version=plan.scores_version,
            ).with_overrides(node_name="score-base")
        )
        .with_overrides(node_name="base-scores")
    )
    trained = train_phases(
        sft=planned.sft,
        sft_deepspeed_json=planned.sft_deepspeed_json,
        sft_train_tokens=sft_tokens.train,
        sft_test_tokens=sft_tokens.test,
        sft_tokenizer=sft_tokens.tokenizer,
        sft_token_report=sft_tokens.report,
        reward=planned.reward,
        reward_deepspeed_json=planned.reward_deepspeed_json,
        reward_contamination=planned.reward_contamination,
        reward_shards=planned.reward_shards,
        chat_template=plan.chat_template,
        policy=planned.policy,
        policy_deepspeed_json=plan.deepspeed_json,
        policy_train_tokens=tokens.train,
        policy_test_tokens=tokens.test,
        policy_tokenizer=tokens.tokenizer,
        policy_token_report=tokens.report,
        base=base.model,
        rewards_version=plan.rewards_version,
        scores_version=plan.scores_version,
        train_rows=tokens.train_rows,
        test_rows=tokens.test_rows,
        base_tokenizer=base.tokenizer,
        other_revisions=plan.other_revisions,
        model_gib=planned.model_gib,
    ).with_overrides(node_name="phases")
    decided = compare_models(
        config=planned.policy,
        start="sft",
        start_evaluation=trained.sft_evaluation,
        start_rows=trained.sft_rows,
        tuned=trained.evaluation,
        tuned_rows=trained.rows,
        quantized=trained.quantized,
        quantized_rows=trained.quantized_rows,
        base=[before.evaluation],
        base_rows=[before.rows],
        rivals=trained.rivals,
        rival_evaluations=trained.rival_evaluations,
        rival_rows=trained.rival_rows,
    ).with_overrides(node_name="gate")
    published = publish(
        decided.asks_approval,
        config=planned.policy,
        artifacts=planned.artifacts,
        directories=trained.artifacts,
        data=tokens.data,
        base=trained.sft_evaluation,
        tuned=trained.evaluation,
        quantized=trained.quantized,
        verdict=decided.verdict,
        base_revision=planned.base_revision,
    )
    return write_alignment_report(
        config=planned.config,
        plan=plan,
        sft_data=sft_tokens.data,
        sft_tokens=sft_tokens.report,
        reward_data=trained.reward_data,
        reward_tokens=trained.reward_tokens,
        policy_data=tokens.data,
        policy_tokens=tokens.report,
        training=trained.reports,
        base=before.evaluation,
        rivals=trained.rivals,
        rival_evaluations=trained.rival_evaluations,
        sft_evaluation=trained.sft_evaluation,
        reward_evaluations=trained.reward_evaluations,
        tuned=trained.evaluation,
        quantized=trained.quantized,
        verdict=decided.verdict,
        rows=decided.rows,
        model=trained.model,
        sft_model=trained.sft_model,
        reward_models=trained.reward_models,
        quantized_models=trained.quantized_models,
        published=published,
        adapter=trained.adapter,
        tokenizer=tokens.tokenizer,
    ).with_overrides(node_name="report")


open_form_with(align, config=ALIGN_DEMO)
