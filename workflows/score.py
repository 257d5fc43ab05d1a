"""Score models on the held-out rows: one model on one machine or on several, and the models to compare it with.

The functions call tasks, and are called in a dynamic task: how many machines score, and which models there are, depends
on the config.
"""

from functools import partial
from typing import NamedTuple, Optional

from flytekit import dynamic, map_task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.schema import FineTuneConfig, ModelConfig
from configs.schema.evaluate import ScoredAs
from configs.schema.others import OtherModelConfig
from configs.wire import Evaluation, TokenReport
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.evaluate.task import Evaluated, ask_endpoint, evaluate, evaluate_part
from tasks.get_model.task import get_adapter, get_model
from tasks.plan.outputs import parts_of
from tasks.runtime.pods import SMALL, evaluation_resources
from tasks.runtime.shown_errors import shows_errors
from tasks.tokenize.task import HeldOutTokens, few_shot_tokens, held_out_tokens
from tasks.train.task import merge


class TokensToScore(NamedTuple):
    """Held-out rows as token ids, the tokenizer, and the tokens that end answers; `train` has training rows, if any."""

    test: FlyteDirectory
    tokenizer: FlyteDirectory
    end_token_ids: list[int]
    train: list[FlyteDirectory]


class Tokens(NamedTuple):
    """Training and held-out rows as token ids, the tokenizer, and what tokenizing found."""

    train: FlyteDirectory
    test: FlyteDirectory
    tokenizer: FlyteDirectory
    report: TokenReport

    def to_score(self) -> TokensToScore:
        """Return what scoring reads of them."""
        return TokensToScore(self.test, self.tokenizer, self.report.end_token_ids, [self.train])


def score(
    label: str,
    config: FineTuneConfig,
    model: FlyteDirectory,
    tokens: TokensToScore,
    reward_models: list[FlyteDirectory],
    scores_version: str,
    image: str = "",
    of: ScoredAs = "own",
) -> Evaluated:
    """Score a model on the held-out rows; `label` names it in logs and Decks, and its node.

    With `evaluate.shards`, several pods score parts of the rows; with `evaluate.gpus`, each asks for so many GPUs.
    `image` is the container that the model needs, if not the usual one. What is scored is as
    `EvaluateConfig.for_scoring` says of `of`.
    """
    settings = config.evaluate.for_scoring(of)
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
        "end_token_ids": tokens.end_token_ids,
        "rewards": config.train.policy.rewards,
        "reward_models": reward_models,
        "training_tokens": tokens.train if settings.retained.memorization_rows else [],
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
    return score("base", config, base, tokens.to_score(), [], scores_version)


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
    asked = tokens.to_score()._replace(test=prompts.tokens)
    scored = score("few_shot", config, base, asked, [], scores_version, of="prompting")
    return Rivals(["few_shot"], [scored.evaluation], [scored.rows])


def score_others(
    config: FineTuneConfig,
    base: FlyteDirectory,
    base_tokenizer: FlyteDirectory,
    test_rows: StructuredDataset,
    chat_template: Optional[str],
    revisions: list[str],
    scores_version: str,
) -> Rivals:
    """Score the models of `evaluate.others` on the held-out rows: each with its own tokenizer and chat template.

    `base_tokenizer` is the tokenizer as it comes with the base model; an adapter without a tokenizer is asked with it
    and with `chat_template`.
    """
    found = Rivals([], [], [])
    for other, revision in zip(config.evaluate.others, revisions, strict=True):
        if other.endpoint:
            scored = ask(config, other, test_rows)
        else:
            fetched = fetch_other(config, other, base, base_tokenizer, revision)
            template = chat_template if other.adapter else None
            prompts = own_tokens(config, other.title, fetched, template, True, test_rows)
            tokens = TokensToScore(prompts.tokens, prompts.tokenizer, prompts.end_token_ids, [])
            own = config.model_copy(update={"model": fetched.loading})
            scored = score(other.title, own, fetched.model, tokens, [], scores_version, of="other")
        found = Rivals([*found.names, other.title], [*found.evaluations, scored.evaluation], [*found.rows, scored.rows])
    return found


class FetchedModel(NamedTuple):
    """A model that loads by itself, its tokenizer as it came, and the settings by which it is loaded."""

    model: FlyteDirectory
    tokenizer: FlyteDirectory
    loading: ModelConfig


def own_tokens(
    config: FineTuneConfig,
    title: str,
    fetched: FetchedModel,
    chat_template: Optional[str],
    prefers_own: bool,
    rows: StructuredDataset,
    node: str = "tokens",
) -> HeldOutTokens:
    """Tokenize rows with a model's own tokenizer, see `held_out_tokens`; `node` begins the name of the node."""
    made: HeldOutTokens = held_out_tokens(
        title=title,
        config=config.tokenize,
        objective=config.train.objective,
        chat_template=chat_template,
        prefers_own=prefers_own,
        tokenizer=fetched.tokenizer,
        trust_remote_code=config.model.trust_remote_code,
        test=rows,
    ).with_overrides(node_name=f"{node}-{title.replace('_', '-')}")
    return made


def fetch_other(
    config: FineTuneConfig, other: OtherModelConfig, base: FlyteDirectory, base_tokenizer: FlyteDirectory, revision: str
) -> FetchedModel:
    """Fetch one of `evaluate.others` that is no endpoint; an adapter is merged into `base`."""
    named = config.model.model_copy(update={"name": other.model or other.adapter, "revision": other.revision})
    if other.model:
        whole = get_model(config=named, revision=revision).with_overrides(node_name=f"model-{other.node}")
        return FetchedModel(whole.model, whole.tokenizer, named)
    adapter = get_adapter(config=named, revision=revision, base_tokenizer=base_tokenizer)
    adapter = adapter.with_overrides(node_name=f"adapter-{other.node}")
    merged = merge(loading=config.model, base=base, trained=adapter.model)
    merged = merged.with_overrides(node_name=f"merge-{other.node}")
    return FetchedModel(merged, adapter.tokenizer, config.model)


def ask(config: FineTuneConfig, other: OtherModelConfig, test_rows: StructuredDataset) -> Evaluated:
    """Let the endpoint of one of `evaluate.others` answer the held-out rows."""
    scored: Evaluated = ask_endpoint(
        config=config.evaluate.for_scoring("other"),
        other=other,
        objective=config.train.objective,
        rows=test_rows,
        answers_folder=config.output_directory,
    ).with_overrides(node_name=f"ask-{other.node}")
    return scored


def joined(*found: Rivals) -> Rivals:
    """Return all rivals, in their order."""
    return Rivals(*([item for part in lists for item in part] for lists in zip(*found, strict=True)))
