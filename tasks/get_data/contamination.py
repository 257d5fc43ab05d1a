"""Find training rows that contain text of an evaluation set: training on a test question inflates the score."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tasks.get_data.dedup import CHUNK_CHARACTERS, SPACELESS, normalized
from tasks.get_data.hashed_texts import HashedTexts, Hashes, Integers

MIN_WORDS = 5
_ASCII_WORD = re.compile("[a-z0-9]+")


@dataclass(frozen=True)
class Hit:
    """One contaminated row."""

    row: int
    """The index of the row."""
    evaluation_id: str
    """The evaluation row that has most of the rarest n-grams found."""
    share: float
    """The row's n-grams that the evaluation set has / all its n-grams, repetitions counted; in (0, 1]."""


@dataclass(frozen=True)
class _NGrams:
    """The evaluation set's distinct n-grams of one length, in the order of their hashes; 20 bytes each."""

    hashes: Hashes
    owners: NDArray[np.int32]
    """The index of the first evaluation text with this n-gram."""
    counts: NDArray[np.int32]
    """How often the n-gram occurs in the evaluation set."""


class EvaluationTexts:
    """The word n-grams of evaluation texts (row id, text), made once and looked for in batches of rows.

    The method is that of Brown et al. 2020, "Language Models are Few-Shot Learners", appendix C: overlap of word
    13-grams, ignoring case, punctuation, and white space. Words are those of `words_of`. An evaluation text of fewer
    than n words, but at least 5, is found where all its words occur in sequence: an n-gram of its own length. Shorter
    ones are not looked for, since they occur by chance.

    N-grams are looked up by 64-bit hash and each one found is compared with the evaluation text's words, so no hit is
    false. One is lost only where two n-grams of the evaluation set have equal hashes: for 10^6 of them, a probability
    of about 3 * 10^-8. Memory: the evaluation set's words and 20 bytes for each of its n-grams, about three times that
    while they are collected, and one chunk of rows, which are read once.

    Raises:
        ValueError: `n` below 1.
    """

    def __init__(self, evaluation: Iterable[tuple[str, str]], n: int) -> None:
        if n < 1:
            raise ValueError(f"n={n} is below 1; it is a number of words, such as 13")
        self._ids: list[str] = []
        self._texts: list[str] = []
        for row_id, text in evaluation:
            self._ids.append(row_id)
            self._texts.append(" ".join(words_of(text)))
        self._n_grams = _collect(self._texts, n)

    def hits(self, rows: Iterable[str]) -> list[Hit]:
        """Return one hit for each of `rows` that shares an n-gram with the evaluation texts, in order.

        A row has one hit, for the length with the highest share. `Hit.share` tells a row that is an evaluation text
        (near 1) from one that quotes it, or shares a template's wording.
        """
        hits: list[Hit] = []
        for first_row, chunk in _chunks(" ".join(words_of(row)) for row in rows):
            best_hits: dict[int, Hit] = {}
            hashed = HashedTexts(chunk)
            for length, n_grams in self._n_grams.items():
                for index, owner, share in _overlaps(chunk, hashed, length, n_grams, self._texts):
                    if index not in best_hits or share > best_hits[index].share:
                        best_hits[index] = Hit(first_row + index, self._ids[owner], share)
            hits += [best_hits[index] for index in sorted(best_hits)]
        return hits


def words_of(text: str) -> list[str]:
    """Return the normalized words of `text`; punctuation and symbols (Unicode P and S) count as white space.

    Each character of a script without spaces between words (Chinese, Japanese, Thai and the like) is a word.
    """
    text = normalized(text)
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return SPACELESS.sub(r" \g<0> ", text.translate(_separators())).split()


@cache
def _separators() -> dict[int, str]:
    code_points = range(sys.maxunicode + 1)
    return {point: " " for point in code_points if unicodedata.category(chr(point))[0] in "PS"}


def _collect(texts: list[str], n: int) -> dict[int, _NGrams]:
    """Return {number of words: n-grams} of all texts, n first."""
    hashes: dict[int, list[Hashes]] = {}
    owners: dict[int, list[NDArray[np.int32]]] = {}
    for first_text, chunk in _chunks(iter(texts)):
        lengths = [text.count(" ") + 1 if text else 0 for text in chunk]
        for length in {min(size, n) for size in lengths if size >= min(MIN_WORDS, n)}:
            indices = [index for index, size in enumerate(lengths) if min(size, n) == length]
            text_hashes, offsets = HashedTexts([chunk[index] for index in indices]).word_windows(length)
            text_owners = np.repeat(first_text + np.array(indices), np.diff(offsets)).astype(np.int32)
            hashes.setdefault(length, []).append(text_hashes)
            owners.setdefault(length, []).append(text_owners)
    result = {}
    for length in sorted(hashes, reverse=True):
        distinct, firsts, counts = np.unique(np.concatenate(hashes[length]), return_index=True, return_counts=True)
        result[length] = _NGrams(distinct, np.concatenate(owners[length])[firsts], counts.astype(np.int32))
    return result


def _chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (index of the first text, texts) in chunks of `CHUNK_CHARACTERS` or just over."""
    chunk: list[str] = []
    first = size = 0
    for text in texts:
        chunk.append(text)
        size += len(text) + 1
        if size >= CHUNK_CHARACTERS:
            yield first, chunk
            first, chunk, size = first + len(chunk), [], 0
    if chunk:
        yield first, chunk


def _overlaps(
    chunk: list[str], hashed: HashedTexts, length: int, n_grams: _NGrams, texts: list[str]
) -> Iterator[tuple[int, int, float]]:
    """Yield (index in the chunk, index of the evaluation text, share) for each text that has one of `n_grams`."""
    hashes, offsets = hashed.word_windows(length)
    entries = np.minimum(np.searchsorted(n_grams.hashes, hashes), len(n_grams.hashes) - 1)
    matches = np.flatnonzero(n_grams.hashes[entries] == hashes)
    text_of_match = np.searchsorted(offsets, matches, side="right") - 1
    matched_texts, first_matches = np.unique(text_of_match, return_index=True)
    for index, windows in zip(matched_texts.tolist(), np.split(matches, first_matches[1:]), strict=False):
        start, end = int(offsets[index]), int(offsets[index + 1])
        verified = _verified(chunk[index], windows - start, entries[windows], length, n_grams, texts)
        if verified:
            lowest_count = min(int(n_grams.counts[entry]) for entry in verified)
            rarest = (entry for entry in verified if n_grams.counts[entry] == lowest_count)
            num_rarest = Counter(int(n_grams.owners[entry]) for entry in rarest)
            owner = min(num_rarest, key=lambda owner: (-num_rarest[owner], owner))
            yield index, owner, len(verified) / (end - start)


def _verified(
    text: str, windows: Integers, entries: Integers, length: int, n_grams: _NGrams, texts: list[str]
) -> list[int]:
    """Return the entries whose owner has the same words as the window: different words may have equal hashes."""
    words = text.split(" ")
    return [
        entry
        for window, entry in zip(windows.tolist(), entries.tolist(), strict=True)
        if f" {' '.join(words[window : window + length])} " in f" {texts[n_grams.owners[entry]]} "
    ]
