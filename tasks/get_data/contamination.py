"""Which training rows hold text of an evaluation set: a score on a question that was trained on measures memory."""

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
from tasks.get_data.hashed_texts import HashedTexts, Hashes, Numbers

FEWEST_WORDS = 5
_ASCII_WORD = re.compile("[a-z0-9]+")


@dataclass(frozen=True)
class Hit:
    """One contaminated row."""

    row: int
    """Its index."""
    evaluation_id: str
    """The evaluation row that has the n-gram found, or most of the rarest ones found."""
    share: float
    """N-grams found in the evaluation set / all n-grams of the row, repeated ones counted each time; in (0, 1]."""


@dataclass(frozen=True)
class _NGrams:
    """The distinct n-grams of the evaluation set of one length, ascending by hash; 20 bytes each."""

    hashes: Hashes
    owners: NDArray[np.int32]
    """The place of the first evaluation text with this n-gram."""
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
            best: dict[int, Hit] = {}
            hashed = HashedTexts(chunk)
            for length, known in self._n_grams.items():
                for place, owner, share in _overlaps(chunk, hashed, length, known, self._texts):
                    if place not in best or share > best[place].share:
                        best[place] = Hit(first_row + place, self._ids[owner], share)
            hits += [best[place] for place in sorted(best)]
        return hits


def words_of(text: str) -> list[str]:
    """Return the words of `text`, normalized, with punctuation and symbols (Unicode P and S) taken for white space.

    Each character of a script without spaces between words (Chinese, Japanese, Thai and the like) is a word.
    """
    text = normalized(text)
    if text.isascii():
        return _ASCII_WORD.findall(text)
    return SPACELESS.sub(r" \g<0> ", text.translate(_separators())).split()


@cache
def _separators() -> dict[int, str]:
    points = range(sys.maxunicode + 1)
    return {point: " " for point in points if unicodedata.category(chr(point))[0] in "PS"}


def _collect(texts: list[str], n: int) -> dict[int, _NGrams]:
    """Return the n-grams of all texts, by their number of words, n first."""
    hashes: dict[int, list[Hashes]] = {}
    owners: dict[int, list[NDArray[np.int32]]] = {}
    for first, chunk in _chunks(iter(texts)):
        lengths = [text.count(" ") + 1 if text else 0 for text in chunk]
        for length in {min(size, n) for size in lengths if size >= min(FEWEST_WORDS, n)}:
            places = [place for place, size in enumerate(lengths) if min(size, n) == length]
            found, offsets = HashedTexts([chunk[place] for place in places]).words(length)
            hashes.setdefault(length, []).append(found)
            owners.setdefault(length, []).append(np.repeat(first + np.array(places), np.diff(offsets)).astype(np.int32))
    result = {}
    for length in sorted(hashes, reverse=True):
        distinct, firsts, counts = np.unique(np.concatenate(hashes[length]), return_index=True, return_counts=True)
        result[length] = _NGrams(distinct, np.concatenate(owners[length])[firsts], counts.astype(np.int32))
    return result


def _chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (place of the first text, texts), `CHUNK_CHARACTERS` together or just over."""
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
    chunk: list[str], hashed: HashedTexts, length: int, known: _NGrams, texts: list[str]
) -> Iterator[tuple[int, int, float]]:
    """Yield (place in the chunk, place of the evaluation text, share found) of each text with a known n-gram."""
    hashes, offsets = hashed.words(length)
    entries = np.minimum(np.searchsorted(known.hashes, hashes), len(known.hashes) - 1)
    matches = np.flatnonzero(known.hashes[entries] == hashes)
    places = np.searchsorted(offsets, matches, side="right") - 1
    matched, firsts = np.unique(places, return_index=True)
    for place, windows in zip(matched.tolist(), np.split(matches, firsts[1:]), strict=False):
        start, end = int(offsets[place]), int(offsets[place + 1])
        verified = _verified(chunk[place], windows - start, entries[windows], length, known, texts)
        if verified:
            fewest = min(int(known.counts[entry]) for entry in verified)
            rarest = Counter(int(known.owners[entry]) for entry in verified if known.counts[entry] == fewest)
            yield place, min(rarest, key=lambda owner: (-rarest[owner], owner)), len(verified) / (end - start)


def _verified(
    text: str, windows: Numbers, entries: Numbers, length: int, known: _NGrams, texts: list[str]
) -> list[int]:
    """Return the entries of `known` whose owner has the words of the window, word for word: equal hashes may lie."""
    words = text.split(" ")
    return [
        entry
        for window, entry in zip(windows.tolist(), entries.tolist(), strict=True)
        if f" {' '.join(words[window : window + length])} " in f" {texts[known.owners[entry]]} "
    ]
