"""How an answer differs from the expected one, word by word, by the standard library's difflib in bounded time."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher

import regex

MOST_CHARACTERS = 4_000
"""Longer texts are cut before they are compared and shown."""
# pairs of equal words: the time of one search for the longest common run, of which difflib makes many
_MOST_PAIRS = 50_000
# longer texts with less than this in common only look alike: marks on their common words would mislead
_FEW_WORDS = 12
_LEAST_SHARE = 0.3
# scripts without blanks between words are compared by character
_UNSPACED = (
    r"\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}"
    r"\p{Script=Myanmar}\p{Script=Tibetan}"
)
# a character goes with its combining marks and joiners (\X), and a word with the blanks after it
_PIECE = regex.compile(rf"(?=[{_UNSPACED}])\X\s*|[[\w\p{{M}}\u200c\u200d]--[{_UNSPACED}]]+\s*|\X\s*", regex.V1)


def pieces(text: str) -> list[str]:
    """Return a text as words and marks with the blanks after them; in scripts without blanks, as characters.

    Their sum is the text.
    """
    return [found[0] for found in _PIECE.finditer(text)]


def marked_difference(expected: str, answer: str) -> list[tuple[str, str]]:
    """Return the answer as (text, kind): `same` as expected, `added`, or `removed`, which is in the expected alone.

    Only the first 4,000 characters of both count. The kind is `whole` where nothing is marked: texts of more than 12
    words together that have less than 30 % of them in common, and texts of so many equal words that comparing takes
    long.
    """
    first, second = pieces(expected[:MOST_CHARACTERS]), pieces(answer[:MOST_CHARACTERS])
    head = _num_same(first, second)
    tail = _num_same(first[head:][::-1], second[head:][::-1])
    middle = first[head : len(first) - tail], second[head : len(second) - tail]
    one, other = ([piece.rstrip() or " " for piece in part] for part in middle)
    num_other = Counter(other)
    if sum(num_other[word] for word in one) > _MOST_PAIRS:
        return [("".join(second), "whole")]
    matcher = SequenceMatcher(None, one, other, autojunk=False)
    num_words = len(first) + len(second)
    in_common = head + tail + sum(block.size for block in matcher.get_matching_blocks())
    if num_words > _FEW_WORDS and 2 * in_common < _LEAST_SHARE * num_words:
        return [("".join(second), "whole")]
    spans = _Spans()
    spans.add_same("".join(first[:head]))
    for change, i, j, k, n in matcher.get_opcodes():
        if change == "equal":
            for pair in zip(middle[0][i:j], middle[1][k:n], strict=True):
                spans.add_equal_words(*pair)
        else:
            spans.removed += "".join(middle[0][i:j])
            spans.added += "".join(middle[1][k:n])
    spans.add_same("".join(first[len(first) - tail :]))
    spans.end_change()
    return spans.found


def _num_same(first: list[str], second: list[str]) -> int:
    """Return how many pieces two lists begin with in common."""
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


class _Spans:
    """The spans found so far; neighbours of one kind are one, and blanks that both texts have stay outside changes."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []
        self.removed = self.added = ""

    def add_equal_words(self, one: str, other: str) -> None:
        """Add a word that is equal in both texts; the blanks after it need not be."""
        if one == other:
            self.add_same(one)
            return
        word = one.rstrip()
        self.add_same(word)
        self.removed += one[len(word) :]
        self.added += other[len(word) :]

    def add_same(self, text: str) -> None:
        if text:
            self.end_change()
            self._add(text, "same")

    def end_change(self) -> None:
        """Add what was removed, then what was added."""
        before, removed, added, after = _without_common_blanks(self.removed, self.added)
        self.removed = self.added = ""
        for text, kind in ((before, "same"), (removed, "removed"), (added, "added"), (after, "same")):
            self._add(text, kind)

    def _add(self, text: str, kind: str) -> None:
        if text and self.found and self.found[-1][1] == kind:
            self.found[-1] = (self.found[-1][0] + text, kind)
        elif text:
            self.found.append((text, kind))


def _without_common_blanks(one: str, other: str) -> tuple[str, str, str, str]:
    """Return the blanks that both texts begin with, both texts without them, and the blanks that both end with."""
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start] and one[start].isspace():
        start += 1
    before, one, other = one[:start], one[start:], other[start:]
    end = 0
    while end < min(len(one), len(other)) and one[-1 - end] == other[-1 - end] and one[-1 - end].isspace():
        end += 1
    return before, one[: len(one) - end], other[: len(other) - end], one[len(one) - end :]
