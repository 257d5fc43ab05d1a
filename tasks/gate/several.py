"""The verdict on models of which none was trained here: each is compared with the first."""

from __future__ import annotations

from collections.abc import Mapping

from configs.measures import main_answer_measure
from configs.schema import FineTuneConfig
from configs.schema.measures import MeasureConfig
from configs.wire_evidence import Verdict
from tasks.gate.compare import Rated, Run
from tasks.gate.decide import decide

FEW_SHOT = "few_shot"
_ONE = "One model was scored. Name others in evaluate.others to compare it with."


def in_order(config: FineTuneConfig, models: Mapping[str, Rated]) -> dict[str, Rated]:
    """Return models in the order of the config: the base, the base with examples, then `evaluate.others`."""
    names = ["base", FEW_SHOT, *(other.title for other in config.evaluate.others)]
    return {name: models[name] for name in names if name in models}


def settled(config: FineTuneConfig, models: Mapping[str, Rated]) -> FineTuneConfig:
    """Return the config with the measure that decides, where it names none: the main one of the answers, if any.

    Losses of models with different tokenizers cannot be compared, and an endpoint has none.
    """
    scores = next(iter(models.values())).evaluation.scores
    main = main_answer_measure(scores, [])
    if config.evaluate.measures or not main:
        return config
    measures = [MeasureConfig(name=main)]  # type: ignore[arg-type]
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"measures": measures})})


def models_of_pairs(models: Mapping[str, Rated]) -> dict[str, dict[str, Rated]]:
    """Return for each model but the first what it is compared with: the first, and that with examples, if scored."""
    start = next(iter(models))
    fixed = {name: rated for name, rated in models.items() if name in (start, FEW_SHOT)}
    return {name: {**fixed, name: rated} for name, rated in models.items() if name not in fixed}


def decide_each(config: FineTuneConfig, start: str, pairs: Mapping[str, Mapping[str, Rated]]) -> Verdict:
    """Return one verdict with what was found for each of `pairs`, models by candidate, against `start`."""
    alone = _without_others(config)
    verdicts = {name: decide(Run(alone, of_pair, start, name, start), []) for name, of_pair in pairs.items()}
    if not verdicts:
        return Verdict(headline=_ONE)
    return Verdict(
        headline=" ".join(f"{name}: {own.headline}" for name, own in verdicts.items()),
        is_better=all(own.is_better for own in verdicts.values()),
        sentences=[f"{name}: {text}" for name, own in verdicts.items() for text in own.sentences],
        differences=[found for own in verdicts.values() for found in own.differences],
        artifacts=[artifact for own in verdicts.values() for artifact in own.artifacts],
    )


def _without_others(config: FineTuneConfig) -> FineTuneConfig:
    """Return the config without other models: each has a verdict of its own."""
    return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"others": []})})
