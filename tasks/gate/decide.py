"""From the tables of all models of a run to the verdict: differences, rules, headline, and the joined table of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq

from configs.artifacts import QuantizationMethod, scores_name
from configs.wire import HELD_OUT
from configs.wire_evidence import RuleOutcome, Verdict
from tasks.decks.parity import why_broken
from tasks.evidence.joined import join_models
from tasks.gate.compare import CHANCE, Pair, Rated, Run, all_pairs, differences
from tasks.gate.rules import (
    deciding_measure,
    gain_kept,
    judge_model,
    pairs_of_rules,
    rival,
    rules_of_objective,
    verdict_on,
)
from tasks.gate.words import beside_others, cautions, headline, prompting


def decide(run: Run, methods: Sequence[QuantizationMethod]) -> Verdict:
    """Return the verdict on the model to be judged and on its copies, made by `methods`.

    Its first difference is that of the measure which decides, unless the headline says that nothing tells.
    """
    rules = run.config.gate.rules or rules_of_objective(run)
    deciding = deciding_measure(run)
    copies = [scores_name(method) for method in methods]
    pairs = [Pair(run.candidate, rival(run), HELD_OUT, deciding)]
    for versus in (name for name in run.models if name not in (run.candidate, *copies)):
        pairs += all_pairs(run.models, run.candidate, versus)
    if run.scores(run.candidate).measured("judge_preference") is not None:
        # a preference is compared with a judge that cannot tell the two apart
        pairs.append(Pair(run.candidate, CHANCE, HELD_OUT, "judge_preference"))
    comparable = [rule for rule in rules if rule.compared_with in (CHANCE, *run.models)]
    for name in (run.candidate, *copies):
        pairs += [*pairs_of_rules(comparable, name), Pair(name, rival(run), HELD_OUT, deciding)]
    known = differences(run.models, pairs)
    tuned = judge_model(rules, run.candidate, run.models, known)
    is_better = all(outcome.passed for outcome in tuned if outcome.required)
    verdicts = [verdict_on(run.candidate, [*tuned, *_saved_as_trained(run)])]
    for method, name in zip(methods, copies, strict=True):
        kept = gain_kept(run, method, deciding, known)
        verdicts.append(verdict_on(name, [*judge_model(rules, name, run.models, known), *([kept] if kept else [])]))
    return Verdict(
        headline=headline(run, known, is_better),
        is_better=is_better,
        sentences=[*prompting(run, known), *beside_others(run, known), *cautions(run, known)],
        differences=known,
        artifacts=verdicts,
    )


def _saved_as_trained(run: Run) -> list[RuleOutcome]:
    """Return the rule that the saved model predicts what the weights did in training; none where nothing was kept."""
    start, tuned = run.models[run.start].evaluation, run.models[run.candidate].evaluation
    if tuned.parity is None:
        return []
    reason = why_broken(start, tuned, run.config.push_to_hub.quantized_tolerance)
    found = reason or f"mean KL divergence {tuned.parity.mean_divergence:.2g} nats"
    return [RuleOutcome(rule="the saved model is the one that was trained", passed=not reason, reason=found)]


def write_joined(models: Mapping[str, Rated], path: Path) -> None:
    """Write the table of all rows, with the answers and the measures of each model (tasks/evidence/joined.py)."""
    joined = join_models({name: rated.table for name, rated in models.items()})
    pq.write_table(joined, path, compression="zstd")
