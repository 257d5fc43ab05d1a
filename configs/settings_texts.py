"""The settings of a config that are text, by name, and which of them name a file, a folder or a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from configs.addresses import shown_address, shown_data, shown_text

PLACES = frozenset(
    {
        "model.name",
        "data.sources.path",
        "data.evaluation.path",
        "data.contamination.path",
        "tokenize.chat_template",
        "evaluate.others.adapter",
        "evaluate.others.model",
        "evaluate.retained.general_text",
        "evaluate.retained.harmless_prompts",
        "evaluate.retained.harness.task",
        "evaluate.retained.unsafe_prompts",
        "train.deepspeed.config",
        "train.tracking.folder",
        "output_directory",
    }
)
"""Settings that name a file or a folder, by the name that `texts` gives them. `model.name`, and models and adapters
of `evaluate.others`, may also be a hub's id."""

SERVERS = frozenset({"evaluate.judge.endpoint", "evaluate.others.endpoint", "train.tracking.address"})
"""Settings that name a server."""


DATA = frozenset(
    {
        "columns",
        "database",
        "group_by",
        "init_text",
        "new_special_tokens",
        "pattern",
        "prompt_separator",
        "rubric",
        "schema_text",
        "template_arguments",
        "tools",
    }
)
"""Settings, or sections of them, whose text is data: what is shown of them must say what the run did."""


def texts(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield (name, value) of each text of a config; the entries of a list have the list's name."""
    if isinstance(settings, dict):
        for key, value in settings.items():
            yield from texts(value, f"{name}.{key}".lstrip("."))
    elif isinstance(settings, list):
        for value in settings:
            yield from texts(value, name)
    elif isinstance(settings, str):
        yield name, settings


def map_texts(settings: Any, change: Callable[[str, str], str], name: str = "") -> Any:
    """Return a config's settings with each text as `change` returns it of its name and value; see `texts`."""
    if isinstance(settings, dict):
        return {key: map_texts(value, change, f"{name}.{key}".lstrip(".")) for key, value in settings.items()}
    if isinstance(settings, list):
        return [map_texts(value, change, name) for value in settings]
    return change(name, settings) if isinstance(settings, str) else settings


def shown_arguments(arguments: Iterable[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
    """Yield what a class shows of itself in its `repr`, with texts as `shown_address`."""
    for name, value in arguments:
        yield name, map_texts(value, lambda _, text: shown_address(text))


def shown_setting(name: str, value: str) -> str:
    """Return a setting's text for a record of the run, by the name that `texts` gives it.

    What is data stays as it is, but for what is certainly a secret; everything else is as `shown_text`.
    """
    return shown_data(value) if DATA & set(name.split(".")) else shown_text(value)
