"""Flyte tasks: score one model on the held-out rows, whole or in parts on several machines.

The scores come with the table of rows behind them, which comparisons read (tasks/gate).
"""

from pathlib import Path
from typing import NamedTuple

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory
from flytekit.types.structured import StructuredDataset

from configs.objectives import Objective
from configs.printable import print_line
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.others import OtherModelConfig
from configs.schema.train import RewardFunctionConfig
from configs.versions import source_version
from configs.wire import Evaluation, Part
from images.specs import CPU_IMAGE, GPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import address_of, local_path, store_folder, store_table, table_path
from tasks.runtime.live_deck import live_deck
from tasks.runtime.pods import CPU, DECK_FIELDS, ONE_GPU, is_laptop_run, scratch_directory
from tasks.runtime.secrets import ENDPOINT_KEY, read_endpoint_key
from tasks.runtime.shown_errors import shows_errors

_VERSION = source_version(
    "tasks/evaluate",
    "tasks/evidence/table.py",
    "tasks/measures",
    "tasks/models",
    "tasks/retained",
    "tasks/rewards",
    "configs/artifacts.py",
    "configs/effective",
    "configs/measures.py",
    "configs/objectives.py",
)


class Evaluated(NamedTuple):
    """The scores of a model, and the table of rows behind them."""

    evaluation: Evaluation
    rows: StructuredDataset


def _score(
    label: str,
    config: EvaluateConfig,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    end_token_ids: list[int],
    rewards: list[RewardFunctionConfig],
    reward_models: list[FlyteDirectory],
    training_tokens: list[FlyteDirectory],
    gpus: int,
    part: Part,
) -> Path:
    """Score a part of the rows; return the folder with what was found."""
    import pandas as pd

    from tasks.decks import html
    from tasks.decks.progress import render_counts
    from tasks.evaluate.part import check_rows, score_part
    from tasks.evaluate.subject import load_subject
    from tasks.files.digests import digest_in
    from tasks.models.pace import doing, every_seconds, heartbeat

    stage = f"evaluate {label}" + (f", part {part.number + 1} of {part.of}" if part.of > 1 else "")
    output = scratch_directory("scores")
    with (
        heartbeat(stage) as heart,
        live_deck(
            "evaluation", lambda: html.fragment(render_counts(stage, heart.counts, heart.activity())), every_seconds()
        ),
    ):
        with doing("downloading the model"):
            rows = pd.read_parquet(local_path(tokens) / "tokens.parquet")
            trained = [
                pd.read_parquet(local_path(folder) / "tokens.parquet") for folder in training_tokens if part.number == 0
            ]
            scorers = [local_path(directory) for directory in reward_models]
            check_rows(config, rows)
            directory = local_path(model)
        subject = load_subject(config, loading, directory, local_path(tokenizer), end_token_ids, rewards, scorers, gpus)
        score_part(subject, directory, rows, trained, part, output, digest_in(address_of(model)))
    return output


def _join(label: str, config: EvaluateConfig, parts: list[Path]) -> Evaluated:
    from tasks.decks import html
    from tasks.decks.progress import render_evaluation
    from tasks.evaluate.scores import join_parts, score_line

    table = scratch_directory("rows") / f"{label}.parquet"
    evaluation = join_parts(config.measures, parts, table)
    Deck("evaluation", html.fragment(render_evaluation(label, evaluation, config.num_samples)))
    print_line(f"evaluate {label}: {score_line(evaluation.scores)}")
    if evaluation.measures_note:
        print_line(f"evaluate {label}: {evaluation.measures_note}")
    if evaluation.scores.quantized_share is not None:
        share = evaluation.scores.quantized_share
        print_line(f"evaluate {label}: {share:.1%} of the weights of linear layers are quantized")
    for other in evaluation.others:
        print_line(f"evaluate {label} on {other.name}: {score_line(other.scores)}")
    return Evaluated(evaluation, store_table(table))


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=3,
    cache=Cache(version=_VERSION, serialize=True, ignored_inputs=("gpus",)),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def evaluate(
    label: str,
    config: EvaluateConfig,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    end_token_ids: list[int],
    rewards: list[RewardFunctionConfig],
    reward_models: list[FlyteDirectory],
    training_tokens: list[FlyteDirectory],
    code_version: str,
    gpus: int,
    parts: list[FlyteDirectory],
) -> Evaluated:
    """Score `model` on the held-out rows. One task scores base, tuned and quantized models; `label` names them.

    With `parts`, which other pods scored, it makes the scores of these: the same for any number of parts.
    `training_tokens` are the rows of which `config.retained.memorization_rows` are completed, if any. `code_version` is
    read by nothing: it makes the cached result depend on the project's functions that the config names. `gpus` is how
    many GPUs the pod has, over which the model is divided; no score depends on it.
    """
    if parts:
        return _join(label, config, [local_path(part) for part in parts])
    scored = _score(
        label,
        config,
        loading,
        model,
        tokens,
        tokenizer,
        end_token_ids,
        rewards,
        reward_models,
        training_tokens,
        gpus,
        Part(number=0, of=1),
    )
    return _join(label, config, [scored])


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=3,
    cache=Cache(version=_VERSION, serialize=True, ignored_inputs=("gpus",)),
    environment=POD_ENVIRONMENT,
)
@shows_errors
def evaluate_part(
    label: str,
    config: EvaluateConfig,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    end_token_ids: list[int],
    rewards: list[RewardFunctionConfig],
    reward_models: list[FlyteDirectory],
    training_tokens: list[FlyteDirectory],
    code_version: str,
    gpus: int,
    part: Part,
) -> FlyteDirectory:
    """Score a part of the rows, as the entry of a map; `evaluate` makes the scores of all parts."""
    scored = _score(
        label,
        config,
        loading,
        model,
        tokens,
        tokenizer,
        end_token_ids,
        rewards,
        reward_models,
        training_tokens,
        gpus,
        part,
    )
    return store_folder(scored, "scores")


class JoinedScores(NamedTuple):
    """The scores of several models, and their tables of rows, in one order."""

    evaluations: list[Evaluation]
    rows: list[StructuredDataset]


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def join_scores(
    labels: list[str],
    config: EvaluateConfig,
    parts: list[FlyteDirectory],
    divided: list[FlyteDirectory],
    code_version: str,
) -> JoinedScores:
    """Make the scores of several models of the parts in which they were scored, all of a model's after one another.

    `divided` are the parts that were scored with several GPUs; one of the two is empty. `code_version` is that of
    `evaluate`.
    """
    parts = parts or divided
    number = len(parts) // max(1, len(labels))
    found = [
        _join(label, config, [local_path(part) for part in parts[place * number : (place + 1) * number]])
        for place, label in enumerate(labels)
    ]
    return JoinedScores([own.evaluation for own in found], [own.rows for own in found])


@task(
    container_image=CPU_IMAGE,
    requests=CPU,
    retries=2,
    secret_requests=[ENDPOINT_KEY],
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def ask_endpoint(
    config: EvaluateConfig,
    other: OtherModelConfig,
    objective: Objective,
    rows: StructuredDataset,
    answers_folder: str,
) -> Evaluated:
    """Let the model at `other.endpoint` answer the held-out rows, and score the answers.

    Not cached, since a server may fail at some rows. A laptop keeps the answers in `answers_folder`, so that a run that
    is started again asks for none twice.
    """
    from tasks.evaluate import endpoint
    from tasks.models.pace import heartbeat

    output = scratch_directory("scores")
    cache = Path(answers_folder) / ".endpoint-answers" if is_laptop_run() else scratch_directory("answers")
    with heartbeat(f"ask {other.title}"):
        endpoint.ask_rows(config, other, objective, read_endpoint_key(), table_path(rows), output, cache)
    return _join(other.title, config, [output])
