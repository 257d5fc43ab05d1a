"""A form sends no key for a field that was emptied, so its default applies: what has one is turned off by 0."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest

from configs.schema import FineTuneConfig
from configs.schema.align import AlignConfig
from configs.schema.section import Section
from configs.schema.train import TrainConfig

# how each of these settings is read; the effects are shown in test_watch.py and test_saver.py
READ = {
    "train.watch.spike_threshold": lambda value: TrainConfig(watch={"spike_threshold": value}).watch.largest_deviation,
    "train.checkpoint.every_minutes": lambda value: (
        TrainConfig(checkpoint={"every_minutes": value}).checkpoint.minutes_between
    ),
}


def optional_with_default(kind: type[Section], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, field) of every field below `kind` that may be null but is not null by default."""
    for name, field in kind.model_fields.items():
        inner = {field.annotation, *get_args(field.annotation)}
        field_path = f"{path}.{name}".lstrip(".")
        if type(None) in inner and field.default is not None:
            yield field_path, field
        for found in inner:
            if isinstance(found, type) and issubclass(found, Section):
                yield from optional_with_default(found, field_path)


def test_every_setting_that_a_form_could_not_turn_off_is_known() -> None:
    assert set(dict(optional_with_default(FineTuneConfig))) == set(READ)
    phases = {f"{phase}.{path}" for phase in ("sft", "reward", "policy") for path in READ}
    assert set(dict(optional_with_default(AlignConfig))) == phases


@pytest.mark.parametrize("path", READ)
def test_zero_equals_null_and_the_description_says_so(path: str) -> None:
    assert READ[path](0) is None and READ[path](None) is None
    assert READ[path](0.5) == 0.5
    assert "0 or null" in dict(optional_with_default(FineTuneConfig))[path].description
