"""Flyte tasks: quantize a merged model. The work is in the modules beside this file."""

from collections.abc import Iterator
from contextlib import contextmanager

from flytekit import Cache, Deck, task
from flytekit.types.directory import FlyteDirectory

from configs.artifacts import BitsAndBytesMethod
from configs.schema import ModelConfig
from configs.versions import source_version
from images.specs import GPTQ_IMAGE, GPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.artifacts import local_path, store_folder
from tasks.runtime.live_deck import live_deck
from tasks.runtime.pods import DECK_FIELDS, ONE_GPU, scratch_directory
from tasks.runtime.shown_errors import shows_errors

_VERSION = source_version(
    "tasks/quantize",
    "tasks/models",
    "configs/artifacts.py",
    "configs/effective",
    "configs/linear_weights.py",
    "configs/objectives.py",
)


@contextmanager
def _shown(stage: str) -> Iterator[None]:
    """Within the block, show progress in the log and in a Deck, which stays afterwards."""
    from tasks.decks import html
    from tasks.decks.progress import render_counts
    from tasks.models.pace import every_seconds, heartbeat

    def render(activity: str | None) -> str:
        return html.fragment(render_counts(stage, heart.counts, activity))

    with heartbeat(stage) as heart, live_deck("quantization", lambda: render(heart.activity()), every_seconds()):
        yield
    Deck("quantization", render(None))


@task(
    container_image=GPU_IMAGE,
    requests=ONE_GPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def quantize(
    method: BitsAndBytesMethod, min_share: float, loading: ModelConfig, model: FlyteDirectory
) -> FlyteDirectory:
    """Return a copy of `model` (full precision, merged), quantized by bitsandbytes to `method`.

    It fails if less than `min_share` of the weights of linear layers was quantized.
    """
    from tasks.models.pace import doing
    from tasks.quantize import bitsandbytes

    output = scratch_directory(f"quantized-{method}")
    with _shown(f"quantize {method}"):
        with doing("downloading the model"):
            directory = local_path(model)
        bitsandbytes.quantize_model(method, loading, directory, output, min_share)
    return store_folder(output, f"quantized-{method}")


@task(
    container_image=GPTQ_IMAGE,
    requests=ONE_GPU,
    retries=2,
    cache=Cache(version=_VERSION, serialize=True),
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def quantize_gptq(
    calibration_rows: int, loading: ModelConfig, model: FlyteDirectory, tokens: FlyteDirectory
) -> FlyteDirectory:
    """Return a 4-bit copy of `model` (full precision, merged), quantized by GPTQ and calibrated on rows of `tokens`."""
    from tasks.models.pace import doing
    from tasks.quantize import gptq

    output = scratch_directory("quantized-gptq")
    with _shown("quantize gptq"):
        with doing("downloading the model"):
            directory, rows = local_path(model), local_path(tokens)
        gptq.quantize_model(loading, directory, rows, calibration_rows, output)
    return store_folder(output, "quantized-gptq")
