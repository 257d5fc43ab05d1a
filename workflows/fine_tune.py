"""From a base model and rows to a fine-tuned, evaluated, quantized and published model.

pyflyte run workflows/fine_tune.py fine_tune --config configs/presets/demo.yaml
"""

from functools import partial
from typing import NamedTuple

from flytekit import dynamic, map_task, workflow
from flytekit.types.directory import FlyteDirectory

from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Published, TokenReport
from images.pods import SMALL
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.evaluate.task import compare, evaluate
from tasks.get_data.task import get_data, scan_shard
from tasks.get_model.task import get_model
from tasks.plan.task import make_plan
from tasks.push_to_hub.task import push_to_hub
from tasks.quantize.task import quantize
from tasks.report.task import FineTuneResult, write_report
from tasks.tokenize.task import tokenize, tokenize_part
from tasks.train.task import merge, train


class QuantizedModels(NamedTuple):
    models: list[FlyteDirectory]
    evaluations: list[Evaluation]


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def quantize_all(
    config: FineTuneConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
) -> QuantizedModels:
    """Quantize the tuned model by each of `quantize.methods`, and score every copy on the held-out rows."""
    models, evaluations = [], []
    for method in config.quantize.methods:
        quantized = quantize(method=method, loading=config.model, model=model)
        evaluations.append(
            evaluate(
                label=f"quantized_{method}",
                config=config.evaluate,
                loading=config.model,
                model=quantized,
                tokens=tokens,
                tokenizer=tokenizer,
                end_token_ids=token_report.end_token_ids,
            )
        )
        models.append(quantized)
    return QuantizedModels(models=models, evaluations=evaluations)


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def push_all(
    config: FineTuneConfig,
    model: FlyteDirectory,
    trained: FlyteDirectory,
    quantized_models: list[FlyteDirectory],
    data: DataReport,
    is_better: bool,
    base: Evaluation,
    tuned: Evaluation,
    quantized: list[Evaluation],
) -> list[Published]:
    """Push each of `push_to_hub.artifacts` to its repository."""
    methods = config.quantize.methods
    directories = {"model": model, "adapter": trained, **dict(zip(methods, quantized_models, strict=True))}
    scores = {"base": base.scores, "tuned": tuned.scores}
    scores |= {f"quantized_{method}": each.scores for method, each in zip(methods, quantized, strict=True)}
    for name, evaluation in (("base", base), ("tuned", tuned)):
        scores |= {f"{name}, on {each.name}": each.scores for each in evaluation.others}
    return [
        push_to_hub(
            config=config,
            artifact=artifact,
            directory=directories[artifact],
            is_better=is_better,
            data=data,
            scores=scores,
        )
        for artifact in config.push_to_hub.artifacts
    ]


@workflow
def fine_tune(config: FineTuneConfig) -> FineTuneResult:
    """Fine-tune a language model: plan, data, tokens, training, evaluation, quantization, publication, report."""
    planned = make_plan(config=config)
    plan = planned.plan
    base = get_model(config=config.model, revision=plan.model_revision)
    scan = partial(scan_shard, config=config.data, contamination=planned.contamination)
    rows = get_data(config=config.data, shards=map_task(scan)(shard=planned.shards))
    tokenize_rows = partial(
        tokenize_part,
        config=config.tokenize,
        chat_template=plan.chat_template,
        tokenizer=base.tokenizer,
        trust_remote_code=config.model.trust_remote_code,
        train=rows.train,
        test=rows.test,
    )
    tokens = tokenize(
        config=config.tokenize,
        chat_template=plan.chat_template,
        tokenizer=base.tokenizer,
        trust_remote_code=config.model.trust_remote_code,
        parts=map_task(tokenize_rows)(part=planned.parts),
    )
    before = evaluate(
        label="base",
        config=config.evaluate,
        loading=config.model,
        model=base.model,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        end_token_ids=tokens.report.end_token_ids,
    )
    trained = train(
        config=config.train,
        loading=config.model,
        model=base.model,
        tokens=tokens.train,
        tokenizer=tokens.tokenizer,
        token_report=tokens.report,
    )
    tuned = merge(config=config.train, loading=config.model, base=base.model, trained=trained.model)
    after = evaluate(
        label="tuned",
        config=config.evaluate,
        loading=config.model,
        model=tuned,
        tokens=tokens.test,
        tokenizer=tokens.tokenizer,
        end_token_ids=tokens.report.end_token_ids,
    )
    is_better = compare(config=config.evaluate, base=before, tuned=after)
    quantized = quantize_all(
        config=config, model=tuned, tokens=tokens.test, tokenizer=tokens.tokenizer, token_report=tokens.report
    )
    published = push_all(
        config=config,
        model=tuned,
        trained=trained.model,
        quantized_models=quantized.models,
        data=rows.report,
        is_better=is_better,
        base=before,
        tuned=after,
        quantized=quantized.evaluations,
    )
    return write_report(
        config=config,
        plan=plan,
        data=rows.report,
        tokens=tokens.report,
        training=trained.report,
        base=before,
        tuned=after,
        quantized=quantized.evaluations,
        model=tuned,
        quantized_models=quantized.models,
        quarantine=rows.quarantine,
        published=published,
        adapter=trained.model,
    )
