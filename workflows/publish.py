"""Quantize and score a tuned model, and publish it."""

from typing import NamedTuple

from flytekit import dynamic
from flytekit.types.directory import FlyteDirectory

from configs.artifacts import QUANTIZATIONS, scores_name
from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation, Published, TokenReport
from images.specs import CPU_IMAGE, GPTQ_IMAGE, POD_ENVIRONMENT
from tasks.evaluate.task import evaluate
from tasks.push_to_hub.task import push_to_hub
from tasks.quantize.task import quantize, quantize_gptq
from tasks.runtime.pods import SMALL, is_laptop_run


class QuantizedModels(NamedTuple):
    """Quantized copies and their scores, in the order of `quantize.methods`."""

    models: list[FlyteDirectory]
    evaluations: list[Evaluation]


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def quantize_all(
    config: FineTuneConfig,
    model: FlyteDirectory,
    train_tokens: FlyteDirectory,
    tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    reward_models: list[FlyteDirectory],
    rewards_version: str,
) -> QuantizedModels:
    """Quantize the tuned model by all `quantize.methods`, and score every copy on the held-out rows.

    Only gptqmodel's methods read training rows (`train_tokens`), for calibration.
    """
    models, evaluations = [], []
    for method in config.quantize.methods:
        is_gptq = QUANTIZATIONS[method].library == "gptqmodel"
        if is_gptq:
            rows = config.quantize.calibration_rows
            quantized = quantize_gptq(calibration_rows=rows, loading=config.model, model=model, tokens=train_tokens)
        else:
            quantized = quantize(method=method, loading=config.model, model=model)
        evaluation = evaluate(
            label=scores_name(method),
            config=config.evaluate,
            loading=config.model,
            model=quantized,
            tokens=tokens,
            tokenizer=tokenizer,
            end_token_ids=token_report.end_token_ids,
            rewards=config.train.policy.rewards,
            reward_models=reward_models,
            rewards_version=rewards_version,
        )
        if is_gptq and not is_laptop_run():
            # only gptqmodel unpacks the weights that it packed
            evaluation = evaluation.with_overrides(container_image=GPTQ_IMAGE.image_name())
        evaluations.append(evaluation)
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
    """Push all `push_to_hub.artifacts`, each to its own repository."""
    methods = config.quantize.methods
    directories = {"model": model, "adapter": trained, **dict(zip(methods, quantized_models, strict=True))}
    scores = {"base": base.scores, "tuned": tuned.scores}
    scores |= {scores_name(method): made.scores for method, made in zip(methods, quantized, strict=True)}
    for name, evaluation in (("base", base), ("tuned", tuned)):
        scores |= {f"{name}, on {other.name}": other.scores for other in evaluation.others}
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
