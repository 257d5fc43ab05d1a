"""From tokens to a tuned model, its scores and its quantized copies: what `fine_tune` and every phase of `align` share.

The functions call tasks, and are called in a dynamic task: machines, merges and quantizations depend on the config. One
dynamic task does for all of them, because each costs a pod.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

from flytekit import Deck, Resources, dynamic
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

import tasks.runtime.laptop_run as laptop_run
from configs.artifacts import QUANTIZATIONS, scores_name
from configs.schema import FineTuneConfig
from configs.wire import Evaluation, TokenReport, TrainReport
from images.specs import CPU_IMAGE, GPTQ_IMAGE, POD_ENVIRONMENT
from tasks.quantize.task import quantize, quantize_gptq
from tasks.runtime.pods import BIG_CPU, DECK_FIELDS, ONE_GPU, SMALL, is_laptop_run, resources_for_model
from tasks.runtime.shown_errors import shows_errors
from tasks.train.task import merge, train
from workflows.score import Tokens, joined, score, score_others, score_prompting

# the folder of a phase's model in the output folder of a laptop's run; the last phase's is `model`
_KEPT_AS = {"sft-": "sft", "reward-": "reward_model"}


class TrainedModel(NamedTuple):
    """A trained model, merged. `adapter` is what training wrote: the model itself for method full."""

    model: FlyteDirectory
    adapter: FlyteDirectory
    report: TrainReport


class QuantizedModels(NamedTuple):
    """Quantized copies, their scores and tables of rows, in the order of `quantize.methods`."""

    models: list[FlyteDirectory]
    evaluations: list[Evaluation]
    rows: list[StructuredDataset]


class Tuned(NamedTuple):
    """The tuned model and its copies, with their scores and tables of rows.

    `artifacts` are to be published, in the order of `push_to_hub.artifacts`; empty if nothing is. `rivals`
    are the names of other models that were scored.
    """

    model: FlyteDirectory
    adapter: FlyteDirectory
    report: TrainReport
    evaluation: Evaluation
    rows: StructuredDataset
    quantized_models: list[FlyteDirectory]
    quantized: list[Evaluation]
    quantized_rows: list[StructuredDataset]
    artifacts: list[FlyteDirectory]
    rivals: list[str]
    rival_evaluations: list[Evaluation]
    rival_rows: list[StructuredDataset]


def train_and_merge(
    config: FineTuneConfig,
    deepspeed_json: str,
    base: FlyteDirectory,
    tokens: Tokens,
    reward_models: list[FlyteDirectory],
    rewards_version: str,
    model_gib: int,
    phase: str = "",
) -> TrainedModel:
    """Train `base`, and merge an adapter into it; `phase` begins the names of the nodes.

    `model_gib` is the size of the base's weights.

    A laptop's run has both in its folder at once, so that no later failure hides them.
    """
    trained = train(
        name=f"{phase}train",
        config=config.train,
        deepspeed_json=deepspeed_json,
        loading=config.model,
        model=base,
        tokens=tokens.train,
        held_out=tokens.test,
        tokenizer=tokens.tokenizer,
        token_report=tokens.report,
        reward_models=reward_models,
        rewards_version=rewards_version,
    )
    model = trained.model
    is_last = phase in ("", "policy-")
    if config.train.method != "full":
        if is_last:
            laptop_run.keep_models({"adapter": trained.model})
        model = merge(loading=config.model, base=base, trained=trained.model).with_overrides(
            node_name=f"{phase}merge", **_room(BIG_CPU, _merged_gib(config, model_gib), 2.1, is_in_memory=True)
        )
    laptop_run.keep_models({"model" if is_last else _KEPT_AS[phase]: model})
    return TrainedModel(model=model, adapter=trained.model, report=trained.report)


def quantize_and_score(
    config: FineTuneConfig,
    model: FlyteDirectory,
    tokens: Tokens,
    reward_models: list[FlyteDirectory],
    scores_version: str,
    model_gib: int,
) -> QuantizedModels:
    """Quantize the tuned model by all `quantize.methods`, and score every copy on the held-out rows.

    Only gptqmodel's methods read training rows, for calibration.
    """
    models, evaluations, tables = [], [], []
    for method in config.quantize.methods:
        is_gptq = QUANTIZATIONS[method].library == "gptqmodel"
        if is_gptq:
            rows = config.quantize.calibration_rows
            copy = quantize_gptq(calibration_rows=rows, loading=config.model, model=model, tokens=tokens.train)
        else:
            min_share = config.quantize.min_share
            copy = quantize(method=method, min_share=min_share, loading=config.model, model=model)
        # bitsandbytes reads the weights file by file
        room = _room(ONE_GPU, _merged_gib(config, model_gib), 1.85, is_in_memory=is_gptq)
        copy = copy.with_overrides(node_name=f"quantize-{method}", **room)
        # only gptqmodel unpacks the weights that it packed
        image = GPTQ_IMAGE.image_name() if is_gptq and not is_laptop_run() else ""
        scored = score(scores_name(method), config, copy, tokens.to_score(), reward_models, scores_version, image)
        evaluations.append(scored.evaluation)
        tables.append(scored.rows)
        models.append(copy)
    return QuantizedModels(models=models, evaluations=evaluations, rows=tables)


def _room(declared: Resources, model_gib: int, disk_copies: float, is_in_memory: bool) -> dict[str, Resources]:
    requests = resources_for_model(declared, model_gib, disk_copies, is_in_memory)
    return {} if requests is None else {"requests": requests}


def _merged_gib(config: FineTuneConfig, model_gib: int) -> int:
    """Return the size of the tuned model, at most: weights that are published in 16 bits may be asked for in 32."""
    return model_gib * (2 if config.model.dtype == "float32" else 1)


def published_artifacts(
    config: FineTuneConfig, trained: TrainedModel, quantized: list[FlyteDirectory]
) -> list[FlyteDirectory]:
    """Return the folders of all `push_to_hub.artifacts`; none without a repository."""
    if config.push_to_hub.repository is None:
        return []
    folders = dict(zip(config.quantize.methods, quantized, strict=True))
    return [
        {"model": trained.model, "adapter": trained.adapter, **folders}[name] for name in config.push_to_hub.artifacts
    ]


def training_steps(config: FineTuneConfig, phase: str = "") -> list[str]:
    """Return the names of the nodes of `train_and_merge`."""
    return [f"{phase}train", *([f"{phase}merge"] if config.train.method != "full" else [])]


def show_steps(config: FineTuneConfig, before: Sequence[str]) -> None:
    """Show in the dynamic task's Deck which steps it starts: those have the Decks that a user looks for.

    `before` are the steps before the tuned model of `config` is scored.
    """
    from tasks.decks import html
    from tasks.decks.short import render_where

    copies = [f"{step}-{method}" for method in config.quantize.methods for step in ("quantize", "evaluate")]
    Deck("steps", html.fragment(render_where([*before, "evaluate-tuned", *copies])))


@dynamic(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def tune(
    config: FineTuneConfig,
    deepspeed_json: str,
    base: FlyteDirectory,
    train_tokens: FlyteDirectory,
    test_tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    token_report: TokenReport,
    rewards_version: str,
    scores_version: str,
    train_rows: StructuredDataset,
    test_rows: StructuredDataset,
    chat_template: Optional[str],
    base_tokenizer: FlyteDirectory,
    other_revisions: list[str],
    model_gib: int,
) -> Tuned:
    """Train, merge, score, quantize, and score the quantized copies; and score what they are compared with.

    That is the base with examples, and other models, if the config asks for them.
    """
    show_steps(config, training_steps(config))
    tokens = Tokens(train_tokens, test_tokens, tokenizer, token_report)
    rivals = joined(
        score_prompting(config, base, tokens, train_rows, test_rows, chat_template, scores_version),
        score_others(config, base, base_tokenizer, test_rows, chat_template, other_revisions, scores_version),
    )
    trained = train_and_merge(config, deepspeed_json, base, tokens, [], rewards_version, model_gib)
    scored = score("tuned", config, trained.model, tokens.to_score(), [], scores_version)
    quantized = quantize_and_score(config, trained.model, tokens, [], scores_version, model_gib)
    return Tuned(
        model=trained.model,
        adapter=trained.adapter,
        report=trained.report,
        evaluation=scored.evaluation,
        rows=scored.rows,
        quantized_models=quantized.models,
        quantized=quantized.evaluations,
        quantized_rows=quantized.rows,
        artifacts=published_artifacts(config, trained, quantized.models),
        rivals=rivals.names,
        rival_evaluations=rivals.evaluations,
        rival_rows=rivals.rows,
    )
