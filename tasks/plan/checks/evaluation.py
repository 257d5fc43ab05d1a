"""Checks of the evaluate and gate sections that a CPU can do before anything runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from configs.errors import ConfigError, either
from configs.measures import MEASURES
from configs.objectives import fault_of_few_shot
from configs.printable import one_line
from configs.schema import FineTuneConfig
from configs.schema.measures import NEEDED_SETTINGS, MeasureConfig, MeasureName
from configs.wire import HELD_OUT
from tasks.files.streams import is_remote
from tasks.measures.functions import functions_hash
from tasks.measures.table import check_measures
from tasks.plan.checks.preflight import Finding
from tasks.retained.harness import check_tasks
from tasks.retained.refusals import prompts

_NAMED = ("base", "sft", "few_shot", "chance")


def check_evaluation(config: FineTuneConfig) -> Finding:
    """Check measures, few-shot examples, files and the gate; return a hash of what scores depend on.

    Raises:
        ConfigError: a setting cannot be used.
        DataError: a file of prompts cannot be read.
    """
    evaluate = config.evaluate
    check_measures(evaluate.measures, [])
    if fault := fault_of_few_shot(evaluate.few_shot, config.train.objective):
        raise ConfigError(fault)
    _check_gate(config)
    digest = hashlib.sha256(functions_hash(evaluate.measures).encode())
    retained = evaluate.retained
    if retained.refusals:
        prompts(retained)
    check_tasks(retained.harness)
    for place in (retained.general_text, retained.unsafe_prompts, retained.harmless_prompts):
        digest.update(_content_hash(place).encode())
    names = [measure.key for measure in evaluate.measures] or ["chosen by what the answers look like"]
    return Finding(f"measures: {', '.join(names)}", digest.hexdigest()[:16])


def _content_hash(place: str | None) -> str:
    if place is None or place == "none" or place.startswith("embedded:") or is_remote(place):
        return place or ""
    path = Path(place).expanduser()
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(
            f"evaluate.retained names {one_line(path)}, which cannot be read ({error.strerror})"
        ) from None


def _check_gate(config: FineTuneConfig) -> None:
    """Refuse a rule that names a model or a set which no run of this config has."""
    for number, rule in enumerate(config.gate.rules):
        versus = rule.compared_with
        named = [*_NAMED, *(other.title for other in config.evaluate.others)]
        if versus is not None and versus not in named:
            raise ConfigError(
                f"gate.rules[{number}].versus={one_line(versus)} is no model of this run; choose {either(named)}, or "
                "name it in evaluate.others"
            )
        if rule.measure == "eval_loss" and any(o.title == versus and o.endpoint for o in config.evaluate.others):
            raise ConfigError(
                f"gate.rules[{number}].versus={one_line(versus or '')} is an endpoint, which gives no losses; choose a "
                "measure of answers"
            )
        if versus == "few_shot" and not config.evaluate.few_shot:
            raise ConfigError(f"gate.rules[{number}].versus=few_shot needs evaluate.few_shot, such as 4")
        keys = {*MEASURES, *(measure.key for measure in config.evaluate.measures)}
        if rule.measure not in keys:
            nearest = get_close_matches(rule.measure, keys, n=1)
            meant = f"did you mean {nearest[0]}? " if nearest else ""
            raise ConfigError(
                f"gate.rules[{number}].measure={one_line(rule.measure)} is no measure of this run; {meant}"
                "docs/evaluation.md lists the names, and one of evaluate.measures may have its own `title`"
            )
        if rule.measure in get_args(MeasureName) and not _is_taken(rule.measure, config.evaluate.measures):
            raise ConfigError(
                f"gate.rules[{number}].measure={rule.measure} is not taken in this run; add it to evaluate.measures"
            )
        if rule.measure.startswith("judge_") and config.evaluate.judge.endpoint is None:
            raise ConfigError(f"gate.rules[{number}].measure={one_line(rule.measure)} needs evaluate.judge.endpoint")
        if rule.measure.startswith("judged_") and not config.evaluate.judge.refusals:
            raise ConfigError(f"gate.rules[{number}].measure={one_line(rule.measure)} needs evaluate.judge.refusals")
        if rule.measure in ("refusal_rate", "over_refusal_rate") and not config.evaluate.retained.refusals:
            raise ConfigError(f"gate.rules[{number}].measure={rule.measure} needs evaluate.retained.refusals: true")
        if rule.measure == "eval_loss" and config.evaluate.loss == "skip" and rule.set == HELD_OUT:
            raise ConfigError(f"gate.rules[{number}].measure=eval_loss is not measured with evaluate.loss=skip")


def _is_taken(name: str, measures: Sequence[MeasureConfig]) -> bool:
    """Return whether a measure of answers may be taken: those listed are, or those that suit the expected answers."""
    if name == "exact_match":
        return True
    return any(measure.key == name for measure in measures) if measures else name not in NEEDED_SETTINGS
