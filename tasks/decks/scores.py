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
    if evaluations["base"].others:
        parts += [
            html.heading("Scores on further evaluation sets", 3),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in worse_elsewhere(evaluations)),
            html.table(other_rows(evaluations), OTHER_HEADER),
        ]
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


OTHER_HEADER = ["set", *SCORE_HEADER[:-1], "sequences"]


def other_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, ...]]:
    """Return one line for each further evaluation set and model, in the order of `OTHER_HEADER`."""
    return [
        (
            each.name,
            name,
            f"{each.scores.eval_loss:.4f}",
            f"{each.scores.perplexity:.4g}",
            _percent(each.scores.exact_match),
            _percent(each.scores.rouge_l),
            f"{each.scores.loss_rows:,}",
        )
        for number in range(len(evaluations["base"].others))
        for name, evaluation in evaluations.items()
        for each in [evaluation.others[number]]
    ]


def worse_elsewhere(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a warning for each further evaluation set on which the tuned model's loss is above the base model's."""
    pairs = zip(evaluations["base"].others, evaluations["tuned"].others, strict=True)
    return [
        f"on {base.name} the loss went up from {base.scores.eval_loss:.3f} to {tuned.scores.eval_loss:.3f}"
        for base, tuned in pairs
        if tuned.scores.eval_loss > base.scores.eval_loss
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
