"""The report of a run: an HTML page that stands alone, `metrics.json`, and the table for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.addresses import shown_address
from configs.artifacts import QUANTIZATIONS, scores_name
from configs.schema import FineTuneConfig
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


@dataclass(frozen=True)
class RunResults:
    """What was reported. `evaluations` holds base, tuned, and quantized_<method> for each method.

    `usage` is Markdown on how the tuned model is asked.
    """

    config: FineTuneConfig
    plan: Plan
    data: DataReport
    tokens: TokenReport
    training: TrainReport
    evaluations: Mapping[str, Evaluation]
    verdict: Verdict
    published: Sequence[Published]
    usage: str = ""


def render_report(results: RunResults) -> str:
    """Return the body of the report: verdict, scores and samples first, then training, plan, rows and config."""
    objective = results.config.train.objective
    return "".join(
        [
            html.heading(f"Fine-tuning report: {results.config.name}", 1),
            html.paragraph(
                f"{shown_address(results.config.model.name)}, {objective}, {results.config.train.method}, "
                f"{training_rows(results.tokens)}.",
                "warn" if are_many_left_out(results.tokens) else "note",
            ),
            html.paragraph(all_rows(results.data, results.tokens), "note"),
            render_verdict(results.verdict),
            held_out_warning(objective, results.tokens, results.evaluations["base"]),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in results.plan.warnings),
            # the most important finding; the section on training has all of them
            *(html.paragraph(finding, "warn") for finding in _findings(results)[:1]),
            *(html.paragraph(item.note, "note") for item in results.published),
            render_evidence(results.verdict),
            scored_in_bits(results.config.evaluate),
            render_scores(results.evaluations, results.config.evaluate.num_samples),
            render_parity(results.evaluations),
            render_usage_section(results.usage),
            render_training(results.training.model_copy(update={"findings": _findings(results)})),
            render_planned(results.plan, [results.training]),
            render_data(results.data),
            render_tokens(results.tokens),
            html.heading("Resolved configuration"),
            html.preformatted(public_config_text(results.config)),
        ]
    )


def metrics(results: RunResults) -> dict[str, Any]:
    """Return the content of `metrics.json`; a quantization that was not configured is null."""
    scores = {
        name: evaluation.scores.as_metrics()
        | {"others": {other.name: other.scores.as_metrics() for other in evaluation.others}}
        for name, evaluation in results.evaluations.items()
    }
    return {
        "name": results.config.name,
        **{name: own for name, own in scores.items() if name not in _quantized()},
        "verdict": results.verdict.model_dump(),
        "parity": {name: own.parity.model_dump() for name, own in results.evaluations.items() if own.parity} or None,
        **{name: scores.get(name) for name in _quantized()},
        "train_rows": results.data.train_rows,
        "test_rows": results.data.test_rows,
        "train_sequences": results.tokens.train_rows,
        "test_sequences": results.tokens.test_rows,
        "quarantined_rows": quarantined_rows(results.data, results.tokens),
        "refused_rows": results.tokens.refused_rows,
        "deduplicated_rows": results.data.deduplicated_rows,
        "dropped_rows": results.tokens.dropped_train_rows + results.tokens.dropped_test_rows,
        "truncated_rows": results.tokens.truncated_rows,
        "split_rows": results.tokens.split_rows,
        "packed_rows": results.tokens.packed_rows,
        "objective": results.training.objective,
        "method": results.training.method,
        "steps": results.training.steps,
        "best_step": results.training.best_step,
        "findings": _findings(results),
        "choices": {choice.name: choice.value for choice in results.training.choices},
        "published": [item.model_dump() for item in results.published],
    }


def _findings(results: RunResults) -> list[str]:
    tuned, measures = results.evaluations["tuned"].scores, results.config.evaluate.measures
    training = results.training
    return findings_to_show(training.findings, training.objective, tuned, [measure.key for measure in measures])


def _quantized() -> list[str]:
    return [scores_name(method) for method in QUANTIZATIONS]


def write_report(results: RunResults, directory: Path) -> tuple[Path, Path]:
    """Write `report.html` and `metrics.json` to `directory`; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    report, numbers = directory / "report.html", directory / "metrics.json"
    report.write_text(html.document(f"Fine-tuning report: {results.config.name}", render_report(results)), "utf-8")
    numbers.write_text(json.dumps(metrics(results), indent=2) + "\n", "utf-8")
    return report, numbers
