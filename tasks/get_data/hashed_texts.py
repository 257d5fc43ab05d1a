"""Hashes of texts, and of all windows of many texts at once: what the searches for equal and like rows look up."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Digests = NDArray[np.uint64]
"""[rows, 2]: the first 16 bytes of a hash, as two big-endian numbers, so that their order is that of the bytes."""


def firsts_of_equals(digests: Digests) -> NDArray[np.int64]:
    """Return for each row the position of the first row with an equal digest: its own when it is the first."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal digests stay in the rows' order
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
    firsts = np.empty(len(order), dtype=np.int64)
    firsts[order] = order[is_first][np.cumsum(is_first) - 1] if len(order) else order
    return firsts


class HashedTexts:
    """The 64-bit hashes of all windows of some texts, computed in arrays: the Python part costs nothing per window.

    A window of characters c_i..c_j is hashed as mix(sum over k of weight(c_k) * base^(k - i) modulo 2^64), from prefix
    sums over all texts together. Texts are given normalized: words separated by one space, no line breaks.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.num_texts = len(texts)
        buffer = ("\n".join(texts) + "\n").encode("utf-32-le", "surrogatepass")
        self._codes = np.frombuffer(buffer, dtype="<u4")
        powers = _powers(_BASE, len(self._codes))
        self._inverse_powers = _powers(pow(_BASE, -1, 2**64), len(self._codes))
        self._prefix = np.zeros(len(self._codes) + 1, dtype=np.uint64)
        np.cumsum(_weights()[self._codes] * powers, out=self._prefix[1:])
        # breaks[k]: how many texts end before character k, which is the number of the text that k is in
        self._breaks = np.zeros(len(self._codes) + 1, dtype=np.int32)
        np.cumsum(self._codes == ord("\n"), out=self._breaks[1:])

    def words(self, size: int) -> tuple[Hashes, Numbers]:
        """Return (hashes, offsets) of all windows of `size` words; text i has hashes[offsets[i] : offsets[i + 1]]."""
        ends = np.flatnonzero((self._codes == ord(" ")) | (self._codes == ord("\n")))
        starts = np.concatenate([[0], ends[:-1] + 1])
        return self._hashed(starts[: max(0, len(starts) - size + 1)], ends[size - 1 :])

    def characters(self, size: int) -> tuple[Hashes, Numbers]:
        """Return (hashes, offsets), as `words` does, of all windows of `size` characters."""
        starts = np.arange(max(0, len(self._codes) - size + 1))
        return self._hashed(starts, starts + size)

    def _hashed(self, starts: Numbers, ends: Numbers) -> tuple[Hashes, Numbers]:
        inside = (self._breaks[starts] == self._breaks[ends]) & (starts < ends)
        starts, ends = starts[inside], ends[inside]
        hashes = mixed((self._prefix[ends] - self._prefix[starts]) * self._inverse_powers[starts])
        counts = np.bincount(self._breaks[starts], minlength=self.num_texts)
        return hashes, np.concatenate([[0], np.cumsum(counts)])


def mixed(values: Hashes) -> Hashes:
    """Return SplitMix64's finalizer of each value: the high bits of a product depend on all bits, the low do not."""
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
    return mixed(np.arange(1, 0x110001, dtype=np.uint64) * np.uint64(_BASE))
