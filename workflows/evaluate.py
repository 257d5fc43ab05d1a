"""Score models without any training: a model, adapters, other models and endpoints, on any rows.

pyflyte run workflows/evaluate.py evaluate --config my.yaml
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Optional

from flytekit import Deck, dynamic, map_task, workflow
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.schema import EvaluateConfig, FineTuneConfig, ModelConfig
from configs.wire import Evaluation, Part
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.comparison.task import EvaluationResult, write_comparison
from tasks.evaluate.task import evaluate_part, join_scores
from tasks.gate.task import compare_with_first
from tasks.get_data.task import get_data, scan_shard
from tasks.get_model.task import get_model
from tasks.plan.task import plan_evaluation
from tasks.runtime.pods import DECK_FIELDS, SMALL, evaluation_resources
from tasks.runtime.shown_errors import shows_errors
from tasks.tokenize.task import few_shot_tokens
from workflows.forms import DEMO, open_form_with
from workflows.score import FetchedModel, ask, fetch_other, own_tokens


class Loaded(NamedTuple):
    """What is scored by loading it, in lists of one length: each model with each part of the rows, by models.

    `names` has each model once. `asked` are the names of the endpoints, whose scores are there. With several GPUs,
    which the workflow's own map cannot ask for, all lists from `labels` to `parts` are empty, and `divided` has what
    was found.
    """

    names: list[str]
    labels: list[str]
    settings: list[EvaluateConfig]
    loading: list[ModelConfig]
    models: list[FlyteDirectory]
    tokens: list[FlyteDirectory]
    tokenizers: list[FlyteDirectory]
    end_token_ids: list[list[int]]
    training_tokens: list[list[FlyteDirectory]]
    parts: list[Part]
    divided: list[FlyteDirectory]
    asked: list[str]
    asked_evaluations: list[Evaluation]
    asked_rows: list[StructuredDataset]


class _Entry(NamedTuple):
    name: str
    settings: EvaluateConfig
    loading: ModelConfig
    model: FlyteDirectory
    tokens: FlyteDirectory
    tokenizer: FlyteDirectory
    end_token_ids: list[int]
    training_tokens: list[FlyteDirectory]


class _Tokens(NamedTuple):
    """Makes the entries of models: their rows as tokens."""

    config: FineTuneConfig
    train_rows: StructuredDataset
    test_rows: StructuredDataset

    def entry(self, name: str, fetched: FetchedModel, chat_template: Optional[str], prefers_own: bool) -> _Entry:
        """Return a model with the rows as tokens of its own tokenizer; see `held_out_tokens`."""
        how = (self.config, name, fetched, chat_template, prefers_own)
        asked = own_tokens(*how, self.test_rows)
        is_memory_asked = self.config.evaluate.retained.memorization_rows > 0
        training = [own_tokens(*how, self.train_rows, "training-tokens").tokens] if is_memory_asked else []
        settings = self.config.evaluate.for_scoring()
        end_token_ids = asked.end_token_ids
        return _Entry(
            name, settings, fetched.loading, fetched.model, asked.tokens, asked.tokenizer, end_token_ids, training
        )

    def with_examples(self, entry: _Entry, chat_template: Optional[str]) -> _Entry:
        """Return the same model with training rows as examples in its prompts."""
        prompts = few_shot_tokens(
            config=self.config.tokenize,
            objective=self.config.train.objective,
            shots=self.config.evaluate.few_shot,
            chat_template=chat_template,
            tokenizer=entry.tokenizer,
            trust_remote_code=self.config.model.trust_remote_code,
            train=self.train_rows,
            test=self.test_rows,
        ).with_overrides(node_name="few-shot-tokens")
        settings = self.config.evaluate.for_scoring("prompting")
        return entry._replace(name="few_shot", settings=settings, tokens=prompts.tokens, training_tokens=[])


@dynamic(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def prepare_models(
    config: FineTuneConfig,
    train_rows: StructuredDataset,
    test_rows: StructuredDataset,
    chat_template: Optional[str],
    model_revision: str,
    other_revisions: list[str],
    scores_version: str,
) -> Loaded:
    """Fetch all models, tokenize the rows for each of them, and ask the endpoints.

    With `evaluate.gpus`, the models are scored here.
    """
    from tasks.decks import html
    from tasks.decks.short import render_facts

    tokens = _Tokens(config, train_rows, test_rows)
    entries, asked, base = [], [], None
    if config.model.name:
        base = get_model(config=config.model, revision=model_revision).with_overrides(node_name="model")
        own = FetchedModel(base.model, base.tokenizer, config.model)
        entries.append(tokens.entry("base", own, chat_template, prefers_own=False))
        if config.evaluate.few_shot:
            entries.append(tokens.with_examples(entries[0], chat_template))
    for other, revision in zip(config.evaluate.others, other_revisions, strict=True):
        if other.endpoint:
            asked.append((other.title, ask(config, other, test_rows)))
            continue
        # a plan without a base has refused adapters
        own = fetch_other(config, other, base and base.model, base and base.tokenizer, revision)
        entries.append(tokens.entry(other.title, own, chat_template if other.adapter else None, prefers_own=True))
    facts = [(own.name, "loaded and scored") for own in entries] + [(name, "asked") for name, _ in asked]
    Deck("models", html.fragment(render_facts("Models", facts)))
    number = config.evaluate.shards
    each = [(own, Part(number=place, of=number)) for own in entries for place in range(number)]
    divided = _scored(each, config.evaluate.gpus, scores_version) if config.evaluate.gpus > 1 else []
    inputs = _inputs([] if divided else each)
    return Loaded(
        names=[own.name for own in entries],
        labels=inputs["label"],
        settings=inputs["config"],
        loading=inputs["loading"],
        models=inputs["model"],
        tokens=inputs["tokens"],
        tokenizers=inputs["tokenizer"],
        end_token_ids=inputs["end_token_ids"],
        training_tokens=inputs["training_tokens"],
        parts=inputs["part"],
        divided=divided,
        asked=[name for name, _ in asked],
        asked_evaluations=[scored.evaluation for _, scored in asked],
        asked_rows=[scored.rows for _, scored in asked],
    )


def _inputs(each: Sequence[tuple[_Entry, Part]]) -> dict[str, list[Any]]:
    """Return the mapped inputs of `evaluate_part`."""
    return {
        "label": [own.name for own, _ in each],
        "config": [own.settings for own, _ in each],
        "loading": [own.loading for own, _ in each],
        "model": [own.model for own, _ in each],
        "tokens": [own.tokens for own, _ in each],
        "tokenizer": [own.tokenizer for own, _ in each],
        "end_token_ids": [own.end_token_ids for own, _ in each],
        "training_tokens": [own.training_tokens for own, _ in each],
        "part": [part for _, part in each],
    }


def _scored(each: Sequence[tuple[_Entry, Part]], gpus: int, scores_version: str) -> list[FlyteDirectory]:
    """Score the models with several GPUs each."""
    score = partial(evaluate_part, rewards=[], reward_models=[], code_version=scores_version, gpus=gpus)
    found: list[FlyteDirectory] = map_task(score)(**_inputs(each)).with_overrides(
        node_name="evaluate-gpus", requests=evaluation_resources(gpus)
    )
    return found


@workflow
def evaluate(config: FineTuneConfig) -> EvaluationResult:
    """Score models without training any.

    Scores a model, adapters, other models and endpoints on the same rows, without training any, and compares each with
    the first. All rows of `data.sources` are scored, but those with `role: train`, which give examples. Every setting
    of `train` is left alone, but for the objective, which says how rows are read.

    Args:
        config: The models (`model`, `evaluate.others`), the rows (`data`) and the measures (`evaluate`).
    """
    planned = plan_evaluation(config=config).with_overrides(node_name="plan")
    scan = partial(scan_shard, config=planned.data, contamination=planned.contamination)
    scanned = map_task(scan)(shard=planned.mapped_shards).with_overrides(node_name="scan-shards")
    rows = get_data(
        config=planned.data, contamination=planned.contamination, shards=planned.shards, scanned=scanned
    ).with_overrides(node_name="rows")
    loaded = prepare_models(
        config=planned.config,
        train_rows=rows.train,
        test_rows=rows.test,
        chat_template=planned.chat_template,
        model_revision=planned.model_revision,
        other_revisions=planned.other_revisions,
        scores_version=planned.scores_version,
    ).with_overrides(node_name="models")
    score = partial(evaluate_part, rewards=[], reward_models=[], code_version=planned.scores_version, gpus=1)
    parts = map_task(score)(
        label=loaded.labels,
        config=loaded.settings,
        loading=loaded.loading,
        model=loaded.models,
        tokens=loaded.tokens,
        tokenizer=loaded.tokenizers,
        end_token_ids=loaded.end_token_ids,
        training_tokens=loaded.training_tokens,
        part=loaded.parts,
    ).with_overrides(node_name="evaluate")
    joined = join_scores(
        labels=loaded.names,
        config=planned.evaluate,
        parts=parts,
        divided=loaded.divided,
        code_version=planned.scores_version,
    ).with_overrides(node_name="scores")
    decided = compare_with_first(
        config=planned.config,
        names=loaded.names,
        evaluations=joined.evaluations,
        rows=joined.rows,
        asked=loaded.asked,
        asked_evaluations=loaded.asked_evaluations,
        asked_rows=loaded.asked_rows,
    ).with_overrides(node_name="gate")
    return write_comparison(
        config=planned.config,
        data=rows.report,
        names=decided.names,
        evaluations=decided.evaluations,
        verdict=decided.verdict,
        rows=decided.rows,
    ).with_overrides(node_name="report")


open_form_with(evaluate, config=DEMO)
