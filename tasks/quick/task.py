"""Flyte task: the config of the short form."""

from flytekit import task

from configs.quick import Preset, quick_config
from configs.schema import FineTuneConfig
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.pods import SMALL


@task(container_image=CPU_IMAGE, requests=SMALL, retries=2, environment=POD_ENVIRONMENT)
def choose_settings(
    preset: Preset,
    model: str,
    data: str,
    prompt_column: str,
    completion_column: str,
    epochs: float,
    learning_rate: float,
    repository: str,
) -> FineTuneConfig:
    """Return the config of a preset with the settings that are given; empty and 0 leave the preset's own."""
    return quick_config(preset.value, model, data, prompt_column, completion_column, epochs, learning_rate, repository)
