"""Flyte task: score one model on the held-out rows."""

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory

from configs.printable import print_line
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.train import RewardFunctionConfig
from configs.versions import source_version
from configs.wire import Evaluation
from images.specs import GPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import address_of, local_path
from tasks.runtime.live_deck import live_deck
from tasks.runtime.pods import DECK_FIELDS, ONE_GPU
from tasks.runtime.shown_errors import shows_errors


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=3,
    cache=Cache(
        version=source_version(
            "tasks/evaluate",
            "tasks/models",
            "tasks/rewards",
            "configs/artifacts.py",
            "configs/effective",
            "configs/measures.py",
            "configs/objectives.py",
        ),
        serialize=True,
    ),
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
    rewards_version: str,
) -> Evaluation:
    """Score `model` on the held-out rows. One task scores base, tuned and quantized models; `label` names them.

    `rewards_version` is read by nothing: it makes the cached result depend on the project's reward functions.
    """
    import pandas as pd

    from tasks.decks import html
    from tasks.decks.progress import render_counts, render_evaluation
    from tasks.evaluate import metrics, score
    from tasks.files.digests import digest_in
    from tasks.models.pace import doing, every_seconds, heartbeat

    stage = f"evaluate {label}"
    with (
        heartbeat(stage) as heart,
        live_deck(
            "evaluation", lambda: html.fragment(render_counts(stage, heart.counts, heart.activity())), every_seconds()
        ),
    ):
        with doing("downloading the model"):
            rows = pd.read_parquet(local_path(tokens) / "tokens.parquet")
            scorers = [local_path(directory) for directory in reward_models]
            directory = local_path(model)
        evaluation = score.evaluate_model(
            config, loading, directory, rows, local_path(tokenizer), end_token_ids, rewards, scorers
        )
    evaluation = evaluation.model_copy(update={"model_digest": digest_in(address_of(model))})
    Deck("evaluation", html.fragment(render_evaluation(label, evaluation, config.num_samples)))
    print_line(f"evaluate {label}: {metrics.score_line(evaluation.scores)}")
    if evaluation.scores.quantized_share is not None:
        share = evaluation.scores.quantized_share
        print_line(f"evaluate {label}: {share:.1%} of the weights of linear layers are quantized")
    for other in evaluation.others:
        print_line(f"evaluate {label} on {other.name}: {metrics.score_line(other.scores)}")
    return evaluation
