"""Find nearly equal texts: MinHash LSH over normalized texts, every pair verified."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from rensa import RMinHash

from tasks.get_data.hashed_texts import HashedTexts, Hashes, Integers, splitmix64

SHINGLE_WORDS = 3
SHINGLE_CHARACTERS = 5
CHUNK_CHARACTERS = 2**20
NUM_PERM = 128
# Thai, Lao, Tibetan, Myanmar, Khmer, kana, Han: spaces separate clauses there, not words
SPACELESS = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")

_MIN_WORDS = 5
_NO_SHINGLE = np.uint32(2**32 - 1)
_MIN_RECALL = 0.99
_MAX_REPRESENTATIVES = 32
_MAX_REMEMBERED_PAIRS = 1_000_000


def normalized(text: str) -> str:
    """Return `text` in Unicode form NFKC, case folded, white space as single spaces; punctuation is kept."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    text = text.casefold()
    if not text.isascii():  # folding may decompose characters, which would make equal texts differ
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.split())


def signatures(texts: Iterable[str], num_texts: int, num_perm: int = NUM_PERM, seed: int = 0) -> NDArray[np.uint32]:
    """Return the MinHash signatures of `texts`, [num_texts, num_perm]; each depends on its own text alone.

    Signatures are those of rensa's R-MinHash. Memory: 4 * num_perm bytes per text, and about 100 bytes per character of
    a chunk of 2^20 characters or of the longest text.

    A text without a shingle has the signature of the empty set, 2^32 - 1 throughout; see `has_shingles`.

    Raises:
        ValueError: `num_perm` below 1, or `seed` outside [0, 2^64).
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed={seed} is outside [0, 2^64); choose a seed in that range")
    if num_perm < 1:
        raise ValueError(f"num_perm={num_perm} is below 1; {NUM_PERM} is usual")
    result = np.full((num_texts, num_perm), _NO_SHINGLE, dtype=np.uint32)
    for chunk in _chunks(texts):
        for by_word in (True, False):
            group = [(row, text) for row, text in chunk if _by_word(text) is by_word]
            if group:
                hashed = HashedTexts([text for _, text in group])
                hashes, offsets = (
                    hashed.word_windows(SHINGLE_WORDS) if by_word else hashed.character_windows(SHINGLE_CHARACTERS)
                )
                result[[row for row, _ in group]] = RMinHash.digest_matrix_from_flat_token_hashes(
                    hashes, offsets.astype(np.uint64), num_perm, seed
                ).to_rows()
    return result


def has_shingles(minhashes: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return which signatures belong to a text that has a shingle."""
    return (minhashes != _NO_SHINGLE).any(axis=1)


def near_clusters(minhashes: NDArray[np.uint32], text_at: Callable[[int], str], threshold: float) -> Integers:
    """Return for each signature the position of the earliest text of its cluster.

    Two texts are near when the Jaccard similarity of their shingle sets (`shingles`), |A & B| / |A | B|, is at least
    `threshold`; a cluster is what such pairs connect. Candidates come from MinHash (Broder 1997, "On the resemblance
    and containment of documents"): P(min h(A) = min h(B)) = Jaccard(A, B), so a pair of similarity s shares one of b
    bands of r values with probability 1 - (1 - s^r)^b, its recall. `band_shape` picks r and b: at 0.8 and 128
    permutations b = 21, r = 6, a recall of 0.998 at s = 0.8 and 0.9999 at s = 0.85. Every candidate pair is then
    verified on its true shingle sets, so none is joined by chance.

    Buckets of up to 32 texts are compared pair by pair. In a larger one each text is compared with up to 32
    representatives, texts that are near no earlier representative: a cluster of m texts costs m comparisons, not m^2,
    and two texts in it that are near each other but no representative are left to the other bands. A pair
    is verified only when its signatures agree within 5 standard deviations of `threshold`, which misses fewer than 1
    in 10^4 of the pairs exactly at it.

    The result depends on the texts, their order, and the seed of `minhashes` only. `text_at` returns the text at a
    position, for verification; no shingle set is kept but the last 64.

    Raises:
        ValueError: `threshold` outside (0, 1].
    """
    bands, rows_per_band = band_shape(threshold, minhashes.shape[1])
    clusters = _Clusters(minhashes, lambda position: shingles(normalized(text_at(position))), threshold)
    all_positions = np.arange(len(minhashes))
    for band in range(bands):
        keys = np.zeros(len(minhashes), dtype=np.uint64)
        for column in range(band * rows_per_band, (band + 1) * rows_per_band):
            keys = splitmix64(keys ^ minhashes[:, column])
        for bucket in _buckets(keys, clusters.roots(all_positions)):
            clusters.join(bucket)
    return clusters.roots(all_positions)


def band_shape(threshold: float, num_perm: int) -> tuple[int, int]:
    """Return (bands, rows per band) with the most rows, so the fewest false candidates, for a recall of at least 0.99.

    The recall is that of a pair exactly at `threshold`: 1 - (1 - threshold^rows)^bands. Where no shape reaches 0.99
    (thresholds below 0.036 at 128 permutations), it is the shape of the highest recall, `num_perm` bands of one row.

    Raises:
        ValueError: `threshold` outside (0, 1], or `num_perm` below 1.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} is outside (0, 1]; it is a Jaccard similarity, such as 0.8")
    if num_perm < 1:
        raise ValueError(f"num_perm={num_perm} is below 1; 128 is usual")
    for rows in range(num_perm, 1, -1):
        bands = num_perm // rows
        if 1 - (1 - threshold**rows) ** bands >= _MIN_RECALL:
            return bands, rows
    return num_perm, 1


def shingles(text: str) -> set[str]:
    """Return the set of shingles of a normalized text: its word 3-grams, or character 5-grams.

    The shingles are of characters for texts of fewer than 5 words, and where more than half of the text is in a script
    without spaces between words. The set is empty for texts of fewer than 5 characters.
    """
    if _by_word(text):
        words = text.split(" ")
        return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}
    return {text[i : i + SHINGLE_CHARACTERS] for i in range(len(text) - SHINGLE_CHARACTERS + 1)}


def _by_word(text: str) -> bool:
    if text.count(" ") + 1 < _MIN_WORDS:
        return False
    return text.isascii() or 2 * len(SPACELESS.findall(text)) <= len(text)


def _chunks(texts: Iterable[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield chunks of (row, normalized text), of about `CHUNK_CHARACTERS`; texts shorter than a shingle are skipped."""
    chunk: list[tuple[int, str]] = []
    size = 0
    for row, raw in enumerate(texts):
        text = normalized(raw)
        if len(text) < SHINGLE_CHARACTERS:
            continue
        chunk.append((row, text))
        size += len(text)
        if size >= CHUNK_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _buckets(keys: Hashes, roots: Integers) -> Iterator[Integers]:
    """Yield the positions of each key in ascending order, unless all of them have the same root already."""
    if not len(keys):
        return
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], keys[order[1:]] != keys[order[:-1]]]))
    ends = np.concatenate([starts[1:], [len(order)]])
    is_split = np.minimum.reduceat(roots[order], starts) != np.maximum.reduceat(roots[order], starts)
    for start, end in zip(starts[is_split].tolist(), ends[is_split].tolist(), strict=True):
        yield order[start:end]


class _Clusters:
    """Union-find over the positions of `signatures`; the root of a cluster is its lowest position."""

    def __init__(
        self, signatures: NDArray[np.uint32], shingles_at: Callable[[int], set[str]], threshold: float
    ) -> None:
        self._signatures = signatures
        self._shingles_at = lru_cache(maxsize=2 * _MAX_REPRESENTATIVES)(shingles_at)
        self._threshold = threshold
        self._min_agreement = threshold - 5 * (threshold * (1 - threshold) / signatures.shape[1]) ** 0.5
        self._parents = np.arange(len(signatures))
        self._pairs_not_near: set[tuple[int, int]] = set()

    def roots(self, positions: Integers) -> Integers:
        """Return the root of each position."""
        roots = self._parents[positions]
        while (self._parents[roots] != roots).any():
            roots = self._parents[roots]
        self._parents[positions] = roots
        return roots

    def join(self, bucket: Integers) -> None:
        """Join the positions of a bucket (two or more, ascending) whose texts are near; see `near_clusters`."""
        is_crowded = len(bucket) > _MAX_REPRESENTATIVES
        if is_crowded:  # texts that other bands have joined are compared once, by their first text
            bucket = bucket[np.sort(np.unique(self.roots(bucket), return_index=True)[1])]
        representatives, count = bucket[:_MAX_REPRESENTATIVES].copy(), 1
        signatures = self._signatures[representatives]
        for position in bucket[1:].tolist():
            agreement = (signatures[:count] == self._signatures[position]).mean(axis=1)
            candidates = representatives[:count][agreement >= self._min_agreement].tolist()
            is_joined = [self._join_if_near(candidate, position) for candidate in candidates]
            if count < len(representatives) and not (is_crowded and any(is_joined)):
                representatives[count] = position
                signatures[count] = self._signatures[position]
                count += 1

    def _root(self, position: int) -> int:
        while (parent := int(self._parents[position])) != position:
            position = parent
        return position

    def _join_if_near(self, first: int, other: int) -> bool:
        """Join the clusters of two texts that are near; return whether both are in one cluster now."""
        root, other_root = self._root(first), self._root(other)
        if root == other_root or (first, other) in self._pairs_not_near:
            return root == other_root
        first_shingles, other_shingles = self._shingles_at(first), self._shingles_at(other)
        shared = len(first_shingles & other_shingles)
        is_near = shared / (len(first_shingles) + len(other_shingles) - shared) >= self._threshold
        if is_near:
            self._parents[max(root, other_root)] = min(root, other_root)
        elif len(self._pairs_not_near) < _MAX_REMEMBERED_PAIRS:  # bounds the memory; other pairs are compared again
            self._pairs_not_near.add((first, other))
        return is_near
