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
from configs.wire import Evaluation, TokenReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.evaluate.task import Evaluated, evaluate, evaluate_part
from tasks.plan.outputs import parts_of
from tasks.runtime.pods import SMALL, evaluation_resources
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

    With `evaluate.shards`, several pods score parts of the rows; with `evaluate.gpus`, each asks for so many GPUs.
    `image` is the container that the model needs, if not the usual one.
    """
    settings = config.evaluate.for_scoring(is_rival=label == "few_shot")
    node = f"evaluate-{label.removeprefix('quantized_').replace('_', '-')}"
    overrides = {"container_image": image} if image else {}
    gpus = config.evaluate.gpus
    # as declared for one
    several = {"requests": evaluation_resources(gpus)} if gpus > 1 else {}
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
        "gpus": gpus,
    }
    parts = parts_of(config.evaluate.shards)
    found = []
    if parts:
        found = map_task(partial(evaluate_part, **inputs))(part=parts)
        found = found.with_overrides(node_name=f"{node}-parts", **overrides, **several)
    # parts that others scored are only joined
    own = {} if parts else several
    scored: Evaluated = evaluate(**inputs, parts=found).with_overrides(node_name=node, **overrides, **own)
    return scored


@dynamic(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
@shows_errors
def score_base(
    config: FineTuneConfig,
    base: FlyteDirectory,
    train_tokens: FlyteDirectory,
    test_tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    scores_version: str,
) -> Evaluated:
    """Score the base model with `evaluate.gpus`, which a workflow cannot choose; it has a node for one GPU."""
    tokens = Tokens(train_tokens, test_tokens, tokenizer, token_report)
    return score("base", config, base, tokens, [], scores_version)


class Rivals(NamedTuple):
    """Other models than those of the training, to compare the tuned model with: names, scores, tables of rows."""

    names: list[str]
    evaluations: list[Evaluation]
    rows: list[StructuredDataset]


def score_prompting(
    config: FineTuneConfig,
    base: FlyteDirectory,
    tokens: Tokens,
    train_rows: StructuredDataset,
    test_rows: StructuredDataset,
    chat_template: Optional[str],
    scores_version: str,
) -> Rivals:
    """Score the base model with training rows as examples in its prompts; none with `evaluate.few_shot: 0`."""
    if not config.evaluate.few_shot:
        return Rivals([], [], [])
    prompts = few_shot_tokens(
        config=config.tokenize,
        objective=config.train.objective,
        shots=config.evaluate.few_shot,
        chat_template=chat_template,
        tokenizer=tokens.tokenizer,
        trust_remote_code=config.model.trust_remote_code,
        train=train_rows,
        test=test_rows,
    ).with_overrides(node_name="few-shot-tokens")
    scored = score("few_shot", config, base, tokens._replace(test=prompts.tokens), [], scores_version)
    return Rivals(["few_shot"], [scored.evaluation], [scored.rows])
