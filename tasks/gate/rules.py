"""The rules that decide whether a model is published: those of the config, or those of its objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from configs.artifacts import QuantizationMethod, scores_name
from configs.measures import Measure, main_answer_measure, measure_of
from configs.objectives import OBJECTIVES
from configs.schema.gate import GateRule
from configs.wire import HELD_OUT
from configs.wire_evidence import ArtifactVerdict, Difference, RuleOutcome
from tasks.evidence.holm import holm
from tasks.evidence.table import datasets
from tasks.gate.compare import CHANCE, Pair, Rated, Run, all_pairs, find, scores_on
from tasks.retained.thresholds import default_rules

LEVEL = 0.05
LEAST_LOSS = 0.001
"""A loss must fall by this much, in nats per token, to be lower at all: less does not show in any table."""
ANSWERS_MAY_DROP = 0.02


def deciding_measure(run: Run) -> str:
    """Return the measure that decides whether a model is better than its base.

    That is the first of `evaluate.measures` for objectives that train single tokens, where the config names any; else
    the first measure of the objective on which base and tuned model differ, or its last one. Where the loss is not
    measured, the first measure of the answers takes its place.
    """
    rules = OBJECTIVES[run.config.train.objective]
    base, tuned = run.scores(run.start), run.scores(run.candidate)
    if rules.trains_each_token:
        if run.config.evaluate.measures:
            return run.config.evaluate.measures[0].key
        if run.config.evaluate.loss == "skip":
            return answers_judged_by(run) or "exact_match"
    if is_against_chance(run):
        return rules.judged_by[0]
    differ = (name for name in rules.judged_by if _differ(base.value(name), tuned.value(name)))
    return next(differ, rules.judged_by[-1])


def answers_judged_by(run: Run) -> str:
    """Return the measure of answers that matters most; empty without answers."""
    return main_answer_measure(run.scores(run.candidate), [own.key for own in run.config.evaluate.measures])


def is_against_chance(run: Run) -> bool:
    """Return whether a reward model is compared with chance, because its base is a language model.

    A language model scores no answers. Its preferences are by log-likelihood: all of them may be right, which says
    nothing about the reward model.
    """
    is_scoring = OBJECTIVES[run.config.train.objective].scores_answers
    return is_scoring and not run.scores(run.start).is_of_reward_model


def rival(run: Run) -> str:
    """Return what the tuned model must beat: the model that training began with, or chance."""
    return CHANCE if is_against_chance(run) else run.start


def rules_of_objective(run: Run) -> list[GateRule]:
    """Return the rules for a config that has none: what decides must be better by more than noise.

    Rules on what was lost, and on the other of loss and answers, only warn.
    """
    deciding = deciding_measure(run)
    versus = rival(run)
    at_least = LEAST_LOSS if deciding == "eval_loss" else None
    rules = [GateRule(measure=deciding, versus=versus, at_least=at_least, significant=True)]
    scores = run.scores(run.candidate)
    if (
        deciding != "eval_loss"
        and scores.eval_loss is not None
        and OBJECTIVES[run.config.train.objective].trains_each_token
    ):
        rules.append(GateRule(measure="eval_loss", versus=run.start, at_most_drop=0.0, required=False))
    answers = answers_judged_by(run)
    if answers and answers != deciding:
        rules.append(GateRule(measure=answers, versus=run.start, at_most_drop=ANSWERS_MAY_DROP, required=False))
    table = run.models[run.candidate].table
    pairs = all_pairs(run.models, run.candidate, run.start)
    measured = [(pair.set, pair.measure) for pair in pairs]
    lost = default_rules(datasets(table), run.config.train.objective)
    known = [rule.model_copy(update={"versus": run.start}) for rule in lost if (rule.set, rule.measure) in measured]
    return [*rules, *known]


def pairs_of_rules(rules: Sequence[GateRule], model: str) -> list[Pair]:
    """Return the differences that the rules need for a model."""
    return [Pair(model, rule.compared_with, rule.set, rule.measure) for rule in rules if rule.compared_with]


def judge_model(
    rules: Sequence[GateRule], model: str, models: Mapping[str, Rated], known: Sequence[Difference]
) -> list[RuleOutcome]:
    """Return what became of each rule for `model`; p-values are corrected by Holm over the rules that need them."""
    tested = [
        pair
        for rule, pair in ((rule, _pair(rule, model)) for rule in rules)
        if rule.significant and pair is not None and find(known, pair) is not None
    ]
    p_values = [found.p_value for pair in tested if (found := find(known, pair)) is not None]
    adjusted = dict(zip(tested, holm(p_values), strict=True))
    return [_outcome(rule, model, models, known, adjusted) for rule in rules]


def _pair(rule: GateRule, model: str) -> Pair | None:
    return Pair(model, rule.compared_with, rule.set, rule.measure) if rule.compared_with else None


def _outcome(
    rule: GateRule,
    model: str,
    models: Mapping[str, Rated],
    known: Sequence[Difference],
    adjusted: Mapping[Pair, float],
) -> RuleOutcome:
    try:
        measure = measure_of(rule.measure, [own for name in models for own in scores_on(models, name, rule.set)])
    except KeyError:
        words = f"{rule.measure}{_on(rule.set)}"
        return RuleOutcome(
            rule=words, passed=False, required=rule.required, reason=f"{words} is not measured: no model has it"
        )
    words = _in_words(rule, measure)
    pair = _pair(rule, model)
    if pair is None:
        passed, reason = _of_value(rule, model, models, measure)
    else:
        passed, reason = _of_difference(rule, pair, measure, find(known, pair), adjusted)
    return RuleOutcome(rule=words, passed=passed, required=rule.required, reason=reason)


def _of_value(rule: GateRule, model: str, models: Mapping[str, Rated], measure: Measure) -> tuple[bool, str]:
    scores = scores_on(models, model, rule.set)
    value = scores[0].value(rule.measure) if scores else None
    name = f"{measure.title}{_on(rule.set)}"
    if value is None:
        return False, f"{name} is not measured for {model}"
    text = measure.number.format(value)
    if rule.at_least is not None and value < rule.at_least:
        return False, f"{name} is {text}, below {measure.number.format(rule.at_least)}"
    if rule.at_most is not None and value > rule.at_most:
        return False, f"{name} is {text}, above {measure.number.format(rule.at_most)}"
    return True, f"{name} is {text}"


def _of_difference(
    rule: GateRule, pair: Pair, measure: Measure, found: Difference | None, adjusted: Mapping[Pair, float]
) -> tuple[bool, str]:
    name = f"{measure.title}{_on(rule.set)}"
    if found is None:
        return False, f"{name} is not known for both {pair.model} and {pair.versus}"
    gain, text = found.gain, changed(found)
    if rule.at_most_drop is not None and -gain > rule.at_most_drop:
        return False, f"{text}: worse by more than {measure.difference(rule.at_most_drop).lstrip('+')}"
    if rule.at_most is not None and found.after > rule.at_most:
        return False, f"{text}: above {measure.number.format(rule.at_most)}"
    if rule.at_least is not None and gain < rule.at_least:
        return False, f"{text}: a gain below {measure.difference(rule.at_least).lstrip('+')}"
    if rule.significant:
        is_outside = found.gain_interval[0] > 0
        p_value = adjusted.get(pair, found.p_value)
        words = "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"
        if found.gain_interval[1] < 0 and p_value < LEVEL:
            return False, f"{text}: worse, by more than noise ({words} on {found.rows:,} rows)"
        if not (is_outside and p_value < LEVEL):
            return False, f"{text}: no more than noise ({words} on {found.rows:,} rows)"
        return True, f"{text} ({words} on {found.rows:,} rows)"
    return True, text


def changed(found: Difference) -> str:
    """Return how a measure changed, with its interval: `exact match 0.0% -> 95.7%: +95.7 points (93.6 to 97.4)`."""
    measure = found.shown
    before, after = measure.number.format(found.before), measure.number.format(found.after)
    on = _on(found.set)
    return (
        f"{measure.title}{on} {before} -> {after} against {found.versus}: {measure.difference(found.difference)} "
        f"(95 % interval {found.interval_words})"
    )


def _on(dataset: str) -> str:
    return "" if dataset == HELD_OUT else f" on {dataset}"


def _in_words(rule: GateRule, measure: Measure) -> str:
    versus = rule.compared_with
    parts = []
    if versus is None:
        parts += [f"at least {measure.number.format(rule.at_least)}"] if rule.at_least is not None else []
    else:
        if rule.significant:
            parts.append(f"better than {versus} by more than noise")
        if rule.at_least is not None:
            parts.append(f"better than {versus} by {measure.difference(rule.at_least).lstrip('+')} or more")
        if rule.at_most_drop is not None:
            drop = measure.difference(rule.at_most_drop).lstrip("+")
            worse = "not worse" if rule.at_most_drop == 0 else f"worse by at most {drop}"
            parts.append(f"{worse} than {versus}" if rule.at_most_drop == 0 else f"{worse} against {versus}")
    parts += [f"at most {measure.number.format(rule.at_most)}"] if rule.at_most is not None else []
    return f"{measure.title}{_on(rule.set)}: {', '.join(parts)}"


def gain_kept(run: Run, method: QuantizationMethod, deciding: str, known: Sequence[Difference]) -> RuleOutcome | None:
    """Return the rule that a quantized copy keeps enough of the tuned model's gain; None where nothing was gained."""
    versus = rival(run)
    name = scores_name(method)
    tuned = find(known, Pair(run.candidate, versus, HELD_OUT, deciding))
    copy = find(known, Pair(name, versus, HELD_OUT, deciding))
    if tuned is None or copy is None:
        return None
    gained, kept = tuned.gain, copy.gain
    if gained <= 0:
        return None
    lost, allowed = 1 - kept / gained, run.config.push_to_hub.quantized_tolerance
    return RuleOutcome(
        rule=f"the {method} copy keeps at least {1 - allowed:.0%} of the tuned model's gain",
        passed=lost <= allowed,
        reason=f"the {method} copy lost {max(lost, 0.0):.0%} of what the tuned model gained over {versus}",
    )


def verdict_on(model: str, outcomes: Sequence[RuleOutcome]) -> ArtifactVerdict:
    """Return the verdict on a model: it is published if it keeps every required rule."""
    promote = all(outcome.passed for outcome in outcomes if outcome.required)
    return ArtifactVerdict(model=model, promote=promote, outcomes=list(outcomes))


def _differ(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and before != after
