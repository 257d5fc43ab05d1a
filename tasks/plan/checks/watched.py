"""Checks of measures before anything runs: the settings of those of training, and whether all fit the first rows."""

from __future__ import annotations

from collections.abc import Sequence

from configs.printable import one_line
from configs.schema import EvaluateConfig, TrainConfig
from configs.schema.measures import MeasureConfig
from tasks.measures.functions import functions_hash
from tasks.measures.table import OF_ANSWERS, check_measures, in_setting
from tasks.plan.checks.preflight import Finding

_SETTING = "train.watch.measures"


def check_watched(config: TrainConfig, expected: Sequence[str]) -> Finding:
    """Check the measures that training takes; return a hash of their functions, empty without any.

    `expected` are the expected answers of the first rows, as far as they are known. A measure that fits none of them is
    a warning, since other rows may be held out: training itself refuses it, before its first step.

    Raises:
        ConfigError: a setting of a measure is wrong (schema, database, pattern, function).
    """
    measures = config.watch.measures
    with in_setting(_SETTING):
        check_measures(measures, [])
        version = functions_hash(measures)
        misfits = _misfits(measures, expected)
    found = ", ".join(measure.key for measure in measures)
    if not expected:
        return Finding(f"{found}; not compared with the first rows", version)
    if not misfits:
        return Finding(f"{found}, of the answers to {config.watch.measured_rows} held-out rows", version)
    warning = _warning(misfits, expected)
    fix = f"take it out of {_SETTING}: training stops before its first step where no held-out row fits either"
    return Finding(found, version, warning, fix)


def check_scored(config: EvaluateConfig, expected: Sequence[str]) -> Finding:
    """Compare `evaluate.measures` with the expected answers of the first rows, as far as they are known.

    A measure that fits none of them is a warning, since other rows may be held out: the evaluation itself refuses it.
    """
    names = ", ".join(measure.key for measure in config.measures)
    if not expected:
        return Finding(f"{names}; not compared with the first rows")
    misfits = _misfits(config.measures, expected)
    if not misfits:
        return Finding(f"{names} fit the first rows")
    fix = "take it out of evaluate.measures: the evaluation of the base stops where no held-out row fits either"
    return Finding(names, warning=_warning(misfits, expected), fix=fix)


def _misfits(measures: Sequence[MeasureConfig], expected: Sequence[str]) -> list[str]:
    """Return what each measure needs that fits none of the expected answers, if any are known."""
    return [
        f"{one_line(measure.key)} needs {OF_ANSWERS[measure.name].needs}"
        for measure in (measures if expected else ())
        if not OF_ANSWERS[measure.name].fitting(measure, expected)
    ]


def _warning(misfits: Sequence[str], expected: Sequence[str]) -> str:
    return f"{'; '.join(misfits)}; of {len(expected)} expected answers of the first rows 0 fit"
