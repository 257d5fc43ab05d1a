"""Answers that are faulty whatever was asked: empty ones, those cut at the length limit, and those that repeat
themselves."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from tasks.measures.measured import RowValues, mean_values

_NGRAM = 4
_FEWEST_WORDS = 16
_REPEATED = 0.5
_LOOPS = 4
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def degenerate_values(table: pa.Table) -> dict[str, RowValues]:
    """Return for each answer of a table of answered rows 1 where it has the fault, else 0.

    `empty`: no text is left without reasoning and special tokens. `unfinished`: it reached the length limit before an
    end token. `repeats`: see `repeats_itself`.
    """
    answers = [answer or "" for answer in table["answer"].to_pylist()]
    ended = [bool(value) for value in table["ended"].to_pylist()]
    return {
        "empty": mean_values(np.asarray([float(not answer.strip()) for answer in answers])),
        "unfinished": mean_values(np.asarray([float(not value) for value in ended])),
        "repeats": mean_values(np.asarray([float(repeats_itself(answer)) for answer in answers])),
    }


def repeats_itself(answer: str) -> bool:
    """Return whether an answer of 16 words or more says the same again and again.

    More than half of its 4-grams occur earlier in it, or it ends with one piece of up to 16 words four times or more.
    Words are split at blanks; of scripts without blanks each character is a word. The first is the share of repeated
    n-grams, seq-rep-4 of Welleck et al. 2020 (https://arxiv.org/abs/1908.04319).
    """
    words = [part for word in answer.split() for part in (list(word) if _UNSPACED.search(word) else [word])]
    if len(words) < _FEWEST_WORDS:
        return False
    grams = [tuple(words[place : place + _NGRAM]) for place in range(len(words) - _NGRAM + 1)]
    if 1 - len(set(grams)) / len(grams) > _REPEATED:
        return True
    return any(_ends_in_loop(words, length) for length in range(1, _FEWEST_WORDS + 1))


def _ends_in_loop(words: list[str], length: int) -> bool:
    times = max(_LOOPS, -(-_FEWEST_WORDS // length))
    piece = words[-length:]
    return len(words) >= length * times and words[-length * times :] == piece * times
