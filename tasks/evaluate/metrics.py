"""Scores of answers against expected texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean, median

from rapidfuzz.distance import LCSseq

from configs.wire import Scores

# below this many words, one word decides the score and exact match says more
_LONG_TEXT_WORDS = 16


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float | None:
    """Return the share of answers equal to the expected text, white space at the ends aside; None of nothing."""
    if not expected:
        return None
    return mean(answer.strip() == text.strip() for answer, text in zip(answers, expected, strict=True))


def rouge_l(answers: Sequence[str], expected: Sequence[str]) -> float | None:
    """Return the mean ROUGE-L F1 of Lin 2004 (https://aclanthology.org/W04-1013): F1 = 2 P R / (P + R).

    P and R are the longest common subsequence of words over the answer's and the expected text's length. Words are
    runs of letters and digits of any script, in lower case.
    """
    if not expected:
        return None
    return mean(_rouge_l(_words(answer), _words(text)) for answer, text in zip(answers, expected, strict=True))


def is_long_text(expected: Sequence[str]) -> bool:
    """Return whether ROUGE-L says something: the median expected text has at least 16 words."""
    return bool(expected) and median(len(_words(text)) for text in expected) >= _LONG_TEXT_WORDS


def score_line(scores: Scores) -> str:
    """Return what is known of a model, for a log."""
    facts = {
        "loss": scores.eval_loss is not None and f"{scores.eval_loss:.4f} over {scores.loss_rows} rows",
        "exact match": scores.exact_match is not None and f"{scores.exact_match:.1%} of {scores.generated_rows}",
        "preference accuracy": scores.preference_accuracy is not None and f"{scores.preference_accuracy:.1%}",
        "preference margin": scores.preference_margin is not None and f"{scores.preference_margin:.4f}",
        "mean reward": scores.mean_reward is not None and f"{scores.mean_reward:.4f}",
    }
    return ", ".join(f"{name} {text}" for name, text in facts.items() if text) or "no score"


def _rouge_l(answer: list[str], expected: list[str]) -> float:
    common = LCSseq.similarity(answer, expected)
    return 2 * common / (len(answer) + len(expected)) if common else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
