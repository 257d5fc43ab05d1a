"""The evaluation Deck: a table, charts, and prompt / expected / before / after samples."""

from __future__ import annotations

from collections.abc import Mapping

from configs.wire import Evaluation, Prediction
from tasks.decks import charts, html

_MIB = 2**20


def render_scores(evaluations: Mapping[str, Evaluation], num_samples: int) -> str:
    """Return the section on scores; `evaluations` holds `base` and `tuned`, and the quantized models after them."""
    names = list(evaluations)
    scores = [evaluations[name].scores for name in names]
    parts = [
        html.heading("Held-out scores"),
        html.table(score_rows(evaluations), SCORE_HEADER),
        html.paragraph(
            f"Loss over {scores[0].loss_rows:,} held-out sequences ({scores[0].loss_tokens:,} tokens); answers to "
            f"{scores[0].generated_rows:,} of them. ROUGE-L only where the median answer has 16 words or more.",
            "note",
        ),
        charts.bars(names, [s.eval_loss for s in scores], "eval-loss", "Held-out loss", "nats per token", "{:.3f}"),
    ]
    matches = [s.exact_match for s in scores]
    if all(match is not None for match in matches):
        parts.append(
            charts.bars(names, [m or 0.0 for m in matches], "exact-match", "Exact match", "share of rows", "{:.1%}")
        )
    samples = _samples(evaluations["base"].predictions, evaluations["tuned"].predictions, num_samples)
    if samples:
        parts += [html.heading("Before and after", 3), html.cards(samples)]
    return "".join(parts)


SCORE_HEADER = ["model", "eval_loss", "perplexity", "exact_match", "rouge_l", "size"]


def score_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, ...]]:
    """Return one line of formatted scores for each model, in the order of `SCORE_HEADER`."""
    return [
        (
            name,
            f"{evaluation.scores.eval_loss:.4f}",
            f"{evaluation.scores.perplexity:.4g}",
            _percent(evaluation.scores.exact_match),
            _percent(evaluation.scores.rouge_l),
            f"{evaluation.scores.size_bytes / _MIB:,.1f} MiB",
        )
        for name, evaluation in evaluations.items()
    ]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _samples(base: list[Prediction], tuned: list[Prediction], num_samples: int) -> list[list[tuple[str, str, str]]]:
    """Return cards for the first rows, wrong ones among them if there are any in the whole."""
    pairs = list(zip(base, tuned, strict=True))
    wrong = [pair for pair in pairs if pair[1].answer.strip() != pair[1].expected.strip()]
    right = [pair for pair in pairs if pair[1].answer.strip() == pair[1].expected.strip()]
    num_wrong = min(len(wrong), max(num_samples - len(right), num_samples // 4))
    shown = right[: num_samples - num_wrong] + wrong[:num_wrong]
    return [
        [
            ("row", after.row_id, "note"),
            ("prompt", after.prompt, ""),
            ("expected", after.expected, ""),
            ("before", before.answer or "(nothing)", ""),
            ("after", after.answer or "(nothing)", "good" if after.answer.strip() == after.expected.strip() else "bad"),
        ]
        for before, after in shown
    ]
