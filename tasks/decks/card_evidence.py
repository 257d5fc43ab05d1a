"""The part of a model card on the evidence: the verdict, each rule of the gate, and the differences behind them."""

from __future__ import annotations

from collections.abc import Sequence

from configs.artifacts import PushedArtifact, scores_name
from configs.printable import one_line, table_cell
from configs.schema import FineTuneConfig
from configs.wire_evidence import ArtifactVerdict, Difference, Verdict
from tasks.decks.markdown import code


def evidence_section(config: FineTuneConfig, artifact: PushedArtifact, verdict: Verdict | None) -> str:
    """Return the section, with a line break before and after; empty for a model that no gate judged."""
    if verdict is None:
        return ""
    name = scores_name(artifact)
    own = verdict.of(name)
    lines = [verdict.headline, "", *_rules(own), "", *_differences([d for d in verdict.differences if d.model == name])]
    if verdict.sentences:
        lines += ["", *(f"- {sentence}" for sentence in verdict.sentences)]
    if not own.promote and config.push_to_hub.reason.strip():
        reason = table_cell(one_line(config.push_to_hub.reason))
        lines += ["", f"Published although the gate holds it back, for this reason: {reason}"]
    return "\n## Evidence\n\n" + "\n".join(lines) + "\n"


def _rules(own: ArtifactVerdict) -> list[str]:
    rows = [
        [outcome.rule, outcome.reason, "passed" if outcome.passed else "failed" if outcome.required else "warning"]
        for outcome in own.outcomes
    ]
    return _table(["rule", "found", "result"], rows)


def _differences(differences: Sequence[Difference]) -> list[str]:
    """Return the table of differences, by the 95 % interval of a paired bootstrap over rows."""
    header = ["measure", "set", "against", "before", "after", "difference (95 % interval)", "p", "rows"]
    return _table(header, [_row(found) for found in differences])


def _row(found: Difference) -> list[str]:
    measure = found.shown
    change = f"{measure.difference(found.difference)} ({found.interval_words})"
    before, after = (measure.number.format(value) for value in (found.before, found.after))
    set_name = found.set if found.set == "held-out" else code(found.set)
    return [measure.title, set_name, found.versus, before, after, change, found.p_words, f"{found.rows:,}"]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, ["---"] * len(header), *rows)]
    return [f"| {' | '.join(row)} |" for row in cells]
