"""Checks of `train.watch.measures` before anything runs: their settings, and whether they fit the first rows."""

from __future__ import annotations

from collections.abc import Sequence

from configs.printable import one_line
from configs.schema import TrainConfig
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
    misfits = []
    with in_setting(_SETTING):
        check_measures(measures, [])
        version = functions_hash(measures)
        for measure in measures if expected else ():
            known = OF_ANSWERS[measure.name]
            if not known.fitting(measure, expected):
                misfits.append(f"{one_line(measure.key)} needs {known.needs}")
    found = ", ".join(measure.key for measure in measures)
    if not expected:
        return Finding(f"{found}; not compared with the first rows", version)
    if not misfits:
        return Finding(f"{found}, of the answers to {config.watch.measured_rows} held-out rows", version)
    warning = f"{'; '.join(misfits)}; of {len(expected)} expected answers of the first rows 0 fit"
    fix = f"take it out of {_SETTING}: training stops before its first step where no held-out row fits either"
    return Finding(found, version, warning, fix)
