"""The report of an evaluation without training: verdict, differences, scores, answers, rows, config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import FineTuneConfig
from configs.wire import DataReport, Evaluation
from configs.wire_evidence import Verdict
from tasks.decks import html
from tasks.decks.data import render_data
from tasks.decks.evidence import render_evidence, render_verdict
from tasks.decks.scores import render_scores, scored_in_bits
from tasks.files.run_record import public_config_text


@dataclass(frozen=True)
class Comparison:
    """What was found; the first of `evaluations` is the model that the others are compared with."""

    config: FineTuneConfig
    data: DataReport
    evaluations: Mapping[str, Evaluation]
    verdict: Verdict


def render_comparison(found: Comparison) -> str:
    """Return the body of the report."""
    return "".join(
        [
            html.heading(f"Evaluation: {found.config.name}", 1),
            html.paragraph(found.data.counts_line(), "note"),
            render_verdict(found.verdict),
            render_evidence(found.verdict),
            scored_in_bits(found.config.evaluate),
            render_scores(found.evaluations, found.config.evaluate.num_samples),
            render_data(found.data),
            html.heading("Resolved configuration"),
            html.preformatted(public_config_text(found.config)),
        ]
    )


def metrics(found: Comparison) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    models = {
        name: own.scores.as_metrics() | {"others": {other.name: other.scores.as_metrics() for other in own.others}}
        for name, own in found.evaluations.items()
    }
    return {
        "name": found.config.name,
        "models": models,
        "verdict": found.verdict.model_dump(),
        "test_rows": found.data.test_rows,
        "quarantined_rows": found.data.quarantined_rows,
        "deduplicated_rows": found.data.deduplicated_rows,
    }


def write_comparison(found: Comparison, directory: Path) -> tuple[Path, Path]:
    """Write `report.html` and `metrics.json` to `directory`; return their paths."""
    report, numbers = directory / "report.html", directory / "metrics.json"
    report.write_text(html.document(f"Evaluation: {found.config.name}", render_comparison(found)), "utf-8")
    numbers.write_text(json.dumps(metrics(found), indent=2) + "\n", "utf-8")
    return report, numbers
