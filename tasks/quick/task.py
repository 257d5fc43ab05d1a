"""Flyte task: the config of the short form."""

from flytekit import Deck, task

from configs.quick import Preset, quick_config
from configs.schema import FineTuneConfig
from images.specs import CPU_IMAGE, POD_ENVIRONMENT
from tasks.runtime.pods import DECK_FIELDS, SMALL
from tasks.runtime.shown_errors import shows_errors


@task(
    container_image=CPU_IMAGE,
    requests=SMALL,
    retries=2,
    environment=POD_ENVIRONMENT,
    enable_deck=True,
    deck_fields=DECK_FIELDS,
)
@shows_errors
def choose_settings(
    preset: Preset,
    model: str,
    data: str,
    prompt_column: str,
    completion_column: str,
    epochs: float,
    learning_rate: float,
    repository: str,
    name: str,
) -> FineTuneConfig:
    """Return the config of a preset with the settings that are given; empty and 0 leave the preset's own."""
    from tasks.decks import html
    from tasks.files.run_record import public_config_text

    columns = (prompt_column, completion_column)
    config = quick_config(preset.value, model, data, *columns, epochs, learning_rate, repository, name)
    Deck(
        "settings",
        html.fragment(html.heading("The config of this run") + html.preformatted(public_config_text(config))),
    )
    return config
