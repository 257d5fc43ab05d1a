"""Flyte tasks: score one model on the held-out rows, and compare base and tuned."""

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory

from configs.schema import EvaluateConfig, ModelConfig
from configs.versions import source_version
from configs.wire import Evaluation
from images.pods import ONE_GPU, SMALL, local_path
from images.specs import CPU_IMAGE, GPU_IMAGE, POD_ENVIRONMENT


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=3,
    cache=Cache(version=source_version("tasks/evaluate", "tasks/models"), serialize=True),
    environment=POD_ENVIRONMENT,
)
def evaluate(
    label: str,
    config: EvaluateConfig,
    loading: ModelConfig,
    model: FlyteDirectory,
    tokens: FlyteDirectory,
    tokenizer: FlyteDirectory,
    end_token_ids: list[int],
) -> Evaluation:
    """Score `model` on the held-out rows; the same task scores base, tuned and quantized models (`label`)."""
    import pandas as pd

    from tasks.evaluate import score

    rows = pd.read_parquet(local_path(tokens) / "tokens.parquet")
    evaluation = score.evaluate_model(config, loading, local_path(model), rows, local_path(tokenizer), end_token_ids)
    for name, scores in [("", evaluation.scores), *((f" on {each.name}", each.scores) for each in evaluation.others)]:
        match, number = scores.exact_match, scores.generated_rows
        answers = "" if match is None else f", exact match {match:.1%} of {number}"
        print(f"evaluate {label}{name}: loss {scores.eval_loss:.4f} over {scores.loss_rows} rows{answers}", flush=True)
    return evaluation


@task(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT, enable_deck=True)
def compare(config: EvaluateConfig, base: Evaluation, tuned: Evaluation) -> bool:
    """Show base and tuned side by side; return whether the tuned model's held-out loss is lower."""
    from tasks.decks import html
    from tasks.decks.scores import render_scores

    Deck("evaluation", html.fragment(render_scores({"base": base, "tuned": tuned}, config.num_samples)))
    return tuned.scores.eval_loss < base.scores.eval_loss
