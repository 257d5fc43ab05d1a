"""Scores of a model from plain values: measures of answers are given by their names, as the others are."""

from __future__ import annotations

from typing import Any

from configs.measures import OF_ANSWERS, Measured, Scores


def scores(**values: Any) -> Scores:
    """Return scores; a measure of answers without a value is left out."""
    given = {name: values.pop(name) for name in OF_ANSWERS if name in values}
    rows = values.get("generated_rows", 0)
    answers = [
        Measured(key=name, name=name, value=value, rows=rows) for name, value in given.items() if value is not None
    ]
    return Scores(answers=answers, **values)


def changed(own: Scores, **values: Any) -> Scores:
    """Return scores with other values."""
    facts = own.model_dump(exclude={"answers"}) | {measured.key: measured.value for measured in own.answers}
    return scores(**{**facts, **values})
