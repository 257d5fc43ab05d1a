"""Hash all windows of many texts at once, and find equal digests: the searches for duplicates are built on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]
Digests = NDArray[np.uint64]
"""[rows, 2]: the first 16 bytes of a hash as two big-endian numbers, which sort as the bytes do."""


def firsts_of_equals(digests: Digests) -> NDArray[np.int64]:
    """Return for each row the position of the first row with an equal digest, which may be its own."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal digests stay in the rows' order
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = order[is_first][np.cumsum(is_first) - 1] if len(order) else order
    return firsts


class HashedTexts:
    """Hashes windows of some texts to 64 bits. numpy computes all of them at once: no Python code runs per window.

    A window of characters c_i..c_j has the hash splitmix64(sum over k of weight(c_k) * base^(k - i) modulo 2^64),
    computed from prefix sums over all texts. Texts must be normalized: one space between words, no line breaks.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_texts = len(texts)
        buffer = ("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass")
        self._codes = np.frombuffer(buffer, dtype="<u4")
        powers = _powers(_BASE, len(self._codes))
        self._inverse_powers = _powers(pow(_BASE, -1, 2**64), len(self._codes))
        self._prefix = np.zeros(len(self._codes) + 1, dtype=np.uint64)
        np.cumsum(_weights()[self._codes] * powers, out=self._prefix[1:])
        # breaks[k]: how many texts end before character k, which is the index of the text that holds k
        self._breaks = np.zeros(len(self._codes) + 1, dtype=np.int32)
        np.cumsum(self._codes == ord("\n"), out=self._breaks[1:])

    def word_windows(self, size: int) -> tuple[Hashes, Integers]:
        """Return (hashes, offsets) of all windows of `size` words; text i has hashes[offsets[i] : offsets[i + 1]]."""
        ends = np.flatnonzero((self._codes == ord(" ")) | (self._codes == ord("\n")))
        starts = np.concatenate([[0], ends[:-1] + 1])
        return self._hashed(starts[: max(0, len(starts) - size + 1)], ends[size - 1 :])

    def character_windows(self, size: int) -> tuple[Hashes, Integers]:
        """Return (hashes, offsets), as `word_windows` does, of all windows of `size` characters."""
        starts = np.arange(max(0, len(self._codes) - size + 1))
        return self._hashed(starts, starts + size)

    def _hashed(self, starts: Integers, ends: Integers) -> tuple[Hashes, Integers]:
        is_in_one_text = (self._breaks[starts] == self._breaks[ends]) & (starts < ends)
        starts, ends = starts[is_in_one_text], ends[is_in_one_text]
        hashes = splitmix64((self._prefix[ends] - self._prefix[starts]) * self._inverse_powers[starts])
        counts = np.bincount(self._breaks[starts], minlength=self.num_texts)
        return hashes, np.concatenate([[0], np.cumsum(counts)])


def splitmix64(values: Hashes) -> Hashes:
    """Return SplitMix64's finalizer of each value. Without it, the low bits of a product would depend on few bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _powers(base: int, count: int) -> Hashes:
    factors = np.full(count, base, dtype=np.uint64)
    factors[:1] = 1
    return np.cumprod(factors)


@cache
def _weights() -> Hashes:
    """Return a pseudorandom 64-bit number for each Unicode code point."""
    return splitmix64(np.arange(1, 0x110001, dtype=np.uint64) * np.uint64(_BASE))
