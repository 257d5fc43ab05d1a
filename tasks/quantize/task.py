"""Flyte tasks: quantize a merged model. The work is in the modules beside this file."""

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory

from configs.schema import BitsAndBytesMethod, ModelConfig
from configs.versions import source_version
from images.live_deck import live_deck
from images.pods import DECK_FIELDS, ONE_GPU, local_path, scratch_directory
from images.specs import GPTQ_IMAGE, GPU_IMAGE, POD_ENVIRONMENT


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=2,
    cache=Cache(version=source_version("tasks/quantize", "tasks/models"), serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
def quantize(method: BitsAndBytesMethod, loading: ModelConfig, model: FlyteDirectory) -> FlyteDirectory:
    """Return a copy of `model` (full precision, merged), quantized to `method`: 8bit or 4bit."""
    from tasks.decks import html
    from tasks.decks.progress import render_counts
    from tasks.models.pace import doing, every_seconds, heartbeat
    from tasks.quantize import bitsandbytes

    output, stage = scratch_directory(f"quantized-{method}"), f"quantize {method}"
    with (
        heartbeat(stage) as heart,
        live_deck(
            "quantization", lambda: html.fragment(render_counts(stage, heart.counts, heart.activity())), every_seconds()
        ),
    ):
        with doing("downloading the model"):
            directory = local_path(model)
        bitsandbytes.quantize_model(method, loading, directory, output)
    Deck("quantization", html.fragment(render_counts(stage, heart.counts, None)))
    return FlyteDirectory(str(output))


@task(
    container_image=GPTQ_IMAGE,
    requests=ONE_GPU,
    retries=2,
    cache=Cache(version=source_version("tasks/quantize", "tasks/models"), serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
def quantize_gptq(
    calibration_rows: int, loading: ModelConfig, model: FlyteDirectory, tokens: FlyteDirectory
) -> FlyteDirectory:
    """Return a 4-bit copy of `model` (full precision, merged) by GPTQ, calibrated on rows of `tokens`."""
    from tasks.decks import html
    from tasks.decks.progress import render_counts
    from tasks.models.pace import doing, every_seconds, heartbeat
    from tasks.quantize import gptq

    output, stage = scratch_directory("quantized-gptq"), "quantize gptq"
    with (
        heartbeat(stage) as heart,
        live_deck(
            "quantization", lambda: html.fragment(render_counts(stage, heart.counts, heart.activity())), every_seconds()
        ),
    ):
        with doing("downloading the model"):
            directory, rows = local_path(model), local_path(tokens)
        gptq.quantize_model(loading, directory, rows, calibration_rows, output)
    Deck("quantization", html.fragment(render_counts(stage, heart.counts, None)))
    return FlyteDirectory(str(output))
