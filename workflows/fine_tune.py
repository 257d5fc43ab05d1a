"""From a base model and rows to a fine-tuned, evaluated, quantized and published model.

pyflyte run workflows/fine_tune.py fine_tune --config configs/presets/demo.yaml
"""

from functools import partial

from flytekit import conditional, map_task, workflow

from configs.schema import FineTuneConfig
from tasks.evaluate.task import evaluate, evaluate_part
from tasks.gate.task import compare_models
from tasks.get_model.task import get_model
from tasks.plan.task import make_plan
from tasks.report.task import FineTuneResult, write_report
from workflows.forms import DEMO, open_form_with
from workflows.prepare_tokens import prepare_tokens
from workflows.push import publish
from workflows.score import score_base
from workflows.tune import tune


@workflow
def fine_tune(config: FineTuneConfig) -> FineTuneResult:
    """Fine-tune a language model.

    Fine-tunes a language model: plan, data, tokens, training, evaluation, quantization, publication, report. All that
    can be checked is checked first, on a CPU. Base, tuned and quantized models are scored on the same held-out
    rows. Where a repository is named, a model that is better than its base is published. Stages whose inputs have
    not changed come from the cache.

    Args:
        config: The base model, the rows, and the settings of every stage; only `model` and `data` are required.
    """
    planned = make_plan(config=config).with_overrides(node_name="plan")
    plan = planned.plan
    base = get_model(config=planned.model, revision=plan.model_revision).with_overrides(node_name="model")
    tokens = prepare_tokens(
        data=planned.data,
        tokenize=planned.tokenize,
        objective=planned.objective,
        trust_remote_code=planned.trust_remote_code,
        chat_template=plan.chat_template,
        contamination=planned.contamination,
        shards=planned.shards,
        mapped_shards=planned.mapped_shards,
        mapped_parts=planned.mapped_parts,
        tokenizer=base.tokenizer,
    ).with_overrides(node_name="data")
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
                config=planned.config,
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
    tuned = tune(
        config=planned.config,
        deepspeed_json=plan.deepspeed_json,
        base=base.model,
        train_tokens=tokens.train,
        test_tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        token_report=tokens.report,
        rewards_version=plan.rewards_version,
        scores_version=plan.scores_version,
        train_rows=tokens.train_rows,
        test_rows=tokens.test_rows,
        chat_template=plan.chat_template,
        base_tokenizer=base.tokenizer,
        other_revisions=plan.other_revisions,
        model_gib=planned.model_gib,
    ).with_overrides(node_name="tune")
    decided = compare_models(
        config=planned.config,
        start="base",
        start_evaluation=before.evaluation,
        start_rows=before.rows,
        tuned=tuned.evaluation,
        tuned_rows=tuned.rows,
        quantized=tuned.quantized,
        quantized_rows=tuned.quantized_rows,
        base=[],
        base_rows=[],
        rivals=tuned.rivals,
        rival_evaluations=tuned.rival_evaluations,
        rival_rows=tuned.rival_rows,
    ).with_overrides(node_name="gate")
    published = publish(
        decided.asks_approval,
        config=planned.config,
        artifacts=planned.artifacts,
        directories=tuned.artifacts,
        data=tokens.data,
        base=before.evaluation,
        tuned=tuned.evaluation,
        quantized=tuned.quantized,
        verdict=decided.verdict,
        base_revision=planned.base_revision,
    )
    return write_report(
        config=planned.config,
        plan=plan,
        data=tokens.data,
        tokens=tokens.report,
        training=tuned.report,
        base=before.evaluation,
        tuned=tuned.evaluation,
        quantized=tuned.quantized,
        rivals=tuned.rivals,
        rival_evaluations=tuned.rival_evaluations,
        verdict=decided.verdict,
        rows=decided.rows,
        model=tuned.model,
        quantized_models=tuned.quantized_models,
        quarantine=tokens.quarantine,
        published=published,
        adapter=tuned.adapter,
        tokenizer=tokens.tokenizer,
    ).with_overrides(node_name="report")


open_form_with(fine_tune, config=DEMO)
