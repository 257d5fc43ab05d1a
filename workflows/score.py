"""Score models on the held-out rows: one model on one machine or on several, and the models to compare it with.

The functions call tasks, and are called in a dynamic task: how many machines score, and which models there are, depends
on the config.
"""

from functools import partial
from typing import NamedTuple, Optional

from flytekit import dynamic, map_task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.schema import FineTuneConfig
from configs.wire import Evaluation, Part, TokenReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.evaluate.task import Evaluated, evaluate, evaluate_part, join_evaluations
from tasks.runtime.pods import SMALL
from tasks.runtime.shown_errors import shows_errors
from tasks.tokenize.task import few_shot_tokens


class Tokens(NamedTuple):
    """Training and held-out rows as token ids, the tokenizer, and what tokenizing found."""

    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    report: TokenReport


def score(
    label: str,
    config: FineTuneConfig,
    model: FlyteDirectory,
    tokens: Tokens,
    reward_models: list[FlyteDirectory],
    scores_version: str,
    image: str = "",
) -> Evaluated:
    """Score a model on the held-out rows; `label` names it in logs and Decks, and its node.

    With `evaluate.shards`, several pods score parts of the rows. `image` is the container that the model needs, if not
    the usual one.
    """
    settings = config.evaluate.for_scoring(is_rival=label == "few_shot")
    node = f"evaluate-{label.removeprefix('quantized_').replace('_', '-')}"
    overrides = {"container_image": image} if image else {}
    inputs = {
        "label": label,
        "config": settings,
        "loading": config.model,
        "model": model,
        "tokens": tokens.test,
        "tokenizer": tokens.tokenizer,
        "end_token_ids": tokens.report.end_token_ids,
        "rewards": config.train.policy.rewards,
        "reward_models": reward_models,
        "training_tokens": [tokens.train] if settings.retained.memorization_rows else [],
        "code_version": scores_version,
    }
    if config.evaluate.shards == 1:
        scored: Evaluated = evaluate(**inputs).with_overrides(node_name=node, **overrides)
        return scored
    parts = [Part(number=number, of=config.evaluate.shards) for number in range(config.evaluate.shards)]
    found = map_task(partial(evaluate_part, **inputs))(part=parts).with_overrides(
        node_name=f"{node}-parts", **overrides
    )
    joined: Evaluated = join_evaluations(
        label=label,
        measures=settings.measures,
        parts=found,
        num_samples=settings.num_samples,
        code_version=scores_version,
    ).with_overrides(node_name=node)
    return joined


class Baselines(NamedTuple):
    """The base model's scores, and those of the other models to compare with, such as the base with examples.

    `all_names`, `all_evaluations` and `all_rows` begin with the base.
    """

    base: Evaluation
    base_rows: StructuredDataset
    rivals: list[str]
    rival_evaluations: list[Evaluation]
    rival_rows: list[StructuredDataset]
    all_names: list[str]
    all_evaluations: list[Evaluation]
    all_rows: list[StructuredDataset]


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
@shows_errors
def score_baselines(
    config: FineTuneConfig,
    base: FlyteDirectory,
    train_tokens: FlyteDirectory,
    test_tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    train_rows: StructuredDataset,
    test_rows: StructuredDataset,
    chat_template: Optional[str],
    scores_version: str,
) -> Baselines:
    """Score the base model, also with examples in its prompts."""
    tokens = Tokens(train_tokens, test_tokens, tokenizer, token_report)
    scored = score("base", config, base, tokens, [], scores_version)
    rivals, evaluations, tables = [], [], []
    if config.evaluate.few_shot:
        prompts = few_shot_tokens(
            config=config.tokenize,
            objective=config.train.objective,
            shots=config.evaluate.few_shot,
            chat_template=chat_template,
            tokenizer=tokenizer,
            trust_remote_code=config.model.trust_remote_code,
            train=train_rows,
            test=test_rows,
        ).with_overrides(node_name="few-shot-tokens")
        shown = score("few_shot", config, base, tokens._replace(test=prompts.tokens), [], scores_version)
        rivals.append("few_shot")
        evaluations.append(shown.evaluation)
        tables.append(shown.rows)
    return Baselines(
        base=scored.evaluation,
        base_rows=scored.rows,
        rivals=rivals,
        rival_evaluations=evaluations,
        rival_rows=tables,
        all_names=["base", *rivals],
        all_evaluations=[scored.evaluation, *evaluations],
        all_rows=[scored.rows, *tables],
    )
