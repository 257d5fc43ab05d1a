"""The report of an alignment: scores after each training first, then the rows, tokens and curves of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.addresses import shown_address
from configs.schema.align import AlignConfig
from configs.wire import DataReport, Evaluation, Published, TokenReport, TrainReport
from configs.wire_evidence import Verdict
from configs.wire_plan import Plan
from tasks.decks import html
from tasks.decks.data import render_data
from tasks.decks.evidence import render_evidence, render_verdict
from tasks.decks.findings import findings_to_show
from tasks.decks.parity import render_parity
from tasks.decks.plan import render_planned
from tasks.decks.readme import render_usage_section
from tasks.decks.scores import render_scores, scored_in_bits
from tasks.decks.tokens import render_tokens
from tasks.decks.training import render_training
from tasks.files.run_record import public_config_text
from tasks.report.rows import all_rows, are_many_left_out, held_out_warning, quarantined_rows, training_rows

_TITLES = {"sft": "Phase: supervised fine-tuning", "reward": "Phase: reward model", "policy": "Phase: alignment"}


@dataclass(frozen=True)
class PhaseReport:
    """The reports of one phase of an alignment."""

    name: str
    data: DataReport
    tokens: TokenReport
    training: TrainReport


@dataclass(frozen=True)
class AlignmentResults:
    """What was reported. `evaluations` holds base, sft, tuned, and quantized_<method> for each method."""

    config: AlignConfig
    plan: Plan
    stages: Sequence[PhaseReport]
    evaluations: Mapping[str, Evaluation]
    reward: Sequence[Evaluation]
    verdict: Verdict
    published: Sequence[Published]
    usage: str = ""


def render_alignment(results: AlignmentResults) -> str:
    """Return the body of the report."""
    config, objective = results.config, results.config.policy.train.objective
    reward_accuracies = [evaluation.scores.preference_accuracy for evaluation in results.reward]
    return "".join(
        [
            html.heading(f"Alignment report: {config.name}", 1),
            html.paragraph(
                f"{shown_address(config.model.name)}: {', then '.join(_trainings(results.stages))}.", "note"
            ),
            render_verdict(results.verdict),
            held_out_warning(objective, results.stages[-1].tokens, results.evaluations["sft"]),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in results.plan.warnings),
            *(
                html.paragraph(f"The reward model scores {accuracy:.1%} of its held-out pairs right.", "note")
                for accuracy in reward_accuracies
                if accuracy is not None
            ),
            *(html.paragraph(item.note, "note") for item in results.published),
            render_evidence(results.verdict),
            scored_in_bits(results.config.evaluate),
            render_scores(results.evaluations, config.evaluate.num_samples),
            render_parity(results.evaluations, "sft"),
            render_usage_section(results.usage),
            *(_render_stage(phase, _findings(results, phase)) for phase in results.stages),
            render_planned(results.plan, [phase.training for phase in results.stages]),
            html.heading("Resolved configuration"),
            html.preformatted(public_config_text(config)),
        ]
    )


def _trainings(stages: Sequence[PhaseReport]) -> list[str]:
    return [f"{phase.training.objective} ({phase.training.method})" for phase in stages]


def _findings(results: AlignmentResults, phase: PhaseReport) -> list[str]:
    """Return the findings of a phase that its model's scores leave; a reward model is scored on other rows."""
    evaluation = {"sft": "sft", "policy": "tuned"}.get(phase.name, "")
    training, measures = phase.training, results.config.evaluate.measures
    if evaluation not in results.evaluations:
        return training.findings
    scores = results.evaluations[evaluation].scores
    return findings_to_show(training.findings, training.objective, scores, [measure.key for measure in measures])


def _render_stage(phase: PhaseReport, findings: list[str]) -> str:
    return "".join(
        [
            html.heading(_TITLES[phase.name], 1),
            html.paragraph(f"{training_rows(phase.tokens)}.", "warn" if are_many_left_out(phase.tokens) else "note"),
            html.paragraph(all_rows(phase.data, phase.tokens), "note"),
            render_training(phase.training.model_copy(update={"findings": findings})),
            render_data(phase.data),
            render_tokens(phase.tokens),
        ]
    )


def alignment_metrics(results: AlignmentResults) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    return {
        "name": results.config.name,
        **{name: evaluation.scores.as_metrics() for name, evaluation in results.evaluations.items()},
        "verdict": results.verdict.model_dump(),
        "reward_model": results.reward[0].scores.as_metrics() if results.reward else None,
        "stages": {
            phase.name: {
                "objective": phase.training.objective,
                "method": phase.training.method,
                "steps": phase.training.steps,
                "findings": _findings(results, phase),
                "train_rows": phase.data.train_rows,
                "test_rows": phase.data.test_rows,
                "train_sequences": phase.tokens.train_rows,
                "test_sequences": phase.tokens.test_rows,
                "quarantined_rows": quarantined_rows(phase.data, phase.tokens),
                "refused_rows": phase.tokens.refused_rows,
                "deduplicated_rows": phase.data.deduplicated_rows,
                "dropped_rows": phase.tokens.dropped_train_rows + phase.tokens.dropped_test_rows,
            }
            for phase in results.stages
        },
        "published": [item.model_dump() for item in results.published],
    }


def write_alignment(results: AlignmentResults, directory: Path) -> tuple[Path, Path]:
    """Write `report.html` and `metrics.json` to `directory`; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    report, numbers = directory / "report.html", directory / "metrics.json"
    page = html.document(f"Alignment report: {results.config.name}", render_alignment(results))
    report.write_text(page, encoding="utf-8")
    numbers.write_text(json.dumps(alignment_metrics(results), indent=2) + "\n", encoding="utf-8")
    return report, numbers
