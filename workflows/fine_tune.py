"""From a base model and rows to a fine-tuned, evaluated, quantized and published model.

pyflyte run workflows/fine_tune.py fine_tune --config configs/presets/demo.yaml
"""

from flytekit import workflow

from configs.schema import FineTuneConfig
from tasks.evaluate.task import compare, evaluate
from tasks.get_model.task import get_model
from tasks.plan.task import make_plan
from tasks.report.task import FineTuneResult, write_report
from workflows.forms import DEMO, open_form_with
from workflows.prepare_tokens import prepare_tokens
from workflows.publish import push_all, quantize_all
from workflows.train_and_evaluate import train_and_evaluate


@workflow
def fine_tune(config: FineTuneConfig) -> FineTuneResult:
    """Fine-tune a language model: plan, data, tokens, training, evaluation, quantization, publication, report.

    Everything that can be checked is checked first, on a CPU. Base, tuned and quantized models are scored on the same
    held-out rows. Where a repository is named, a model that is better than its base is published. Stages whose inputs
    have not changed come from the cache.

    Args:
        config: The base model, the rows, and the settings of every stage; only `model` and `data` are required.
    """
    planned = make_plan(config=config)
    plan = planned.plan
    base = get_model(config=planned.model, revision=plan.model_revision)
    tokens = prepare_tokens(
        data=planned.data,
        tokenize=planned.tokenize,
        objective=planned.objective,
        trust_remote_code=planned.trust_remote_code,
        chat_template=plan.chat_template,
        contamination=planned.contamination,
        shards=planned.shards,
        parts=planned.parts,
        tokenizer=base.tokenizer,
    )
    before = evaluate(
        label="base",
        config=planned.evaluate,
        loading=planned.model,
        model=base.model,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        end_token_ids=tokens.report.end_token_ids,
        rewards=planned.rewards,
        reward_models=[],
        rewards_version=plan.rewards_version,
    )
    tuned = train_and_evaluate(
        label="tuned",
        train_config=planned.train,
        method=planned.method,
        evaluate_config=planned.evaluate,
        deepspeed_json=plan.deepspeed_json,
        loading=planned.model,
        base=base.model,
        tokens=tokens.train,
        held_out=tokens.test,
        tokenizer=tokens.tokenizer,
        token_report=tokens.report,
        end_token_ids=tokens.report.end_token_ids,
        rewards=planned.rewards,
        reward_models=[],
        rewards_version=plan.rewards_version,
    )
    is_better = compare(config=planned.evaluate, objective=planned.objective, base=before, tuned=tuned.evaluation)
    quantized = quantize_all(
        config=planned.config,
        model=tuned.model,
        train_tokens=tokens.train,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        token_report=tokens.report,
        reward_models=[],
        rewards_version=plan.rewards_version,
    )
    published = push_all(
        config=planned.config,
        model=tuned.model,
        trained=tuned.adapter,
        quantized_models=quantized.models,
        data=tokens.data,
        is_better=is_better,
        base=before,
        tuned=tuned.evaluation,
        quantized=quantized.evaluations,
    )
    return write_report(
        config=planned.config,
        plan=plan,
        data=tokens.data,
        tokens=tokens.report,
        training=tuned.report,
        base=before,
        tuned=tuned.evaluation,
        quantized=quantized.evaluations,
        model=tuned.model,
        quantized_models=quantized.models,
        quarantine=tokens.quarantine,
        published=published,
        adapter=tuned.adapter,
    )


open_form_with(fine_tune, config=DEMO)
