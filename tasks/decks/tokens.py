"""The token Deck: lengths, rows left out, and sequences as the model sees them, with trained spans marked."""

from __future__ import annotations

from configs.objectives import ONLINE
from configs.wire import TokenReport
from tasks.decks import charts, html
from tasks.decks.data import render_failures


def render_tokens(report: TokenReport) -> str:
    """Return the section on tokens."""
    share = report.trained_tokens / max(1, report.train_tokens)
    unit = "pairs of answers" if report.preference_rows else "sequences"
    # rloo and grpo train generated answers; expected ones only go to the reward functions
    is_online = report.objective in ONLINE
    counts = [
        (f"training {unit}", f"{report.train_rows:,}"),
        (f"held-out {unit}", f"{report.test_rows:,}"),
        ("training tokens", f"{report.train_tokens:,}"),
        (
            "of them in expected answers, shown and not trained" if is_online else "of them trained",
            f"{report.trained_tokens:,} ({share:.0%})",
        ),
        ("longest allowed", f"{report.max_length:,} tokens"),
        ("chat template", report.template + (f", SHA-256 {report.template_hash[:12]}" if report.template_hash else "")),
        *([("its arguments", report.template_arguments)] if report.template_arguments else []),
        ("training rows dropped as too long", f"{report.dropped_train_rows:,}"),
        ("held-out rows dropped as too long", f"{report.dropped_test_rows:,}"),
        ("rows cut as too long", f"{report.truncated_rows:,}"),
        ("rows split as too long", f"{report.split_rows:,}"),
        ("rows refused by the chat template, in the quarantine table", f"{report.refused_rows:,}"),
    ]
    if report.split_rows:
        counts += [
            ("pieces they were split into", f"{report.split_pieces:,}"),
            ("further pieces left out, without an answer", f"{report.left_out_pieces:,}"),
        ]
    if report.unwanted_rows:
        counts.append(("training answers that are not wanted", f"{report.unwanted_rows:,}"))
    if report.new_token_ids:
        counts.append(("tokens added to the vocabulary", f"{len(report.new_token_ids):,}"))
    if report.packed_rows:
        counts += [
            ("rows that training sequences were packed into", f"{report.packed_rows:,}"),
            ("share of packed rows that tokens fill", f"{report.packing_fill:.1%}"),
        ]
    return "".join(
        [
            html.heading("Tokens"),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in report.warnings),
            charts.histogram(
                report.lengths, report.length_counts, report.max_length, "Length of training rows", "tokens"
            ),
            html.table(counts, ["tokens", "value"]),
            _refused(report),
            html.heading(
                "What the model sees: the prompt; the expected answer, in green, is shown and not trained"
                if is_online
                else "What the model sees: trained spans in green",
                3,
            ),
            *_samples(report),
        ]
    )


def _refused(report: TokenReport) -> str:
    """Return a table of the first refused rows with their reasons; empty where there are none."""
    title = "Rows set aside: refused by the chat template, in the quarantine table"
    return render_failures(report.refused_cases, report.refused_rows, title) if report.refused_cases else ""


def _samples(report: TokenReport) -> list[str]:
    """Return the samples with trained spans marked; of a pair the chosen and the rejected sequence."""
    blocks = []
    rejected_samples = report.rejected_samples or [[]] * len(report.samples)
    for sample, rejected in zip(report.samples, rejected_samples, strict=True):
        marked = [html.marked([(span.text, span.trained) for span in spans]) for spans in (sample, rejected) if spans]
        if rejected:
            marked = [html.paragraph("chosen"), marked[0], html.paragraph("rejected"), marked[1]]
        blocks += marked
    return blocks
