"""Duplicates: texts that normalization makes equal, near pairs at the threshold, clusters, recall and cost."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.get_data import dedup
from tasks.get_data.dedup import NUM_PERM, band_shape, has_shingles, near_clusters, normalized, shingles, signatures
from tasks.get_data.fingerprints import fingerprints
from tasks.get_data.hashed_texts import HashedTexts, firsts_of_equals
from tasks.rows.formats import CANONICAL_COLUMNS

FEW_WORDS = st.lists(st.sampled_from("abc"), max_size=8).map(" ".join)
ANY_TEXTS = st.lists(st.one_of(FEW_WORDS, st.text(max_size=12)), max_size=12)


def jaccard(one: str, other: str) -> float:
    one, other = normalized(one), normalized(other)
    union, shared = shingles(one) | shingles(other), shingles(one) & shingles(other)
    return len(shared) / len(union) if union else float(one == other)


def exact_duplicates(texts: Sequence[str]) -> list[int]:
    """Return for each text the index of the first one with the same fingerprint, as `exact` finds them."""
    return _firsts(texts, "exact")


def normalized_duplicates(texts: Sequence[str]) -> list[int]:
    """Return for each text the index of the first one that is the same apart from case and white space."""
    return _firsts(texts, "normalized")


def _firsts(texts: Sequence[str], deduplicate: str) -> list[int]:
    rows = pd.DataFrame({"completion": texts}, columns=CANONICAL_COLUMNS, dtype=object).fillna("")
    rows["kind"] = "text"
    return firsts_of_equals(fingerprints(rows, [None] * len(rows), 0, deduplicate)["content"]).tolist()


def near_duplicates(texts: Iterable[str], threshold: float, seed: int = 0, num_perm: int = NUM_PERM) -> list[int]:
    """Return for each text the index of the earliest one of its cluster: among those that no exact one came before."""
    texts = list(texts)
    result = np.array(normalized_duplicates(texts), dtype=np.int64)
    firsts = np.flatnonzero(result == np.arange(len(result)))
    signed = signatures((texts[first] for first in firsts.tolist()), len(firsts), num_perm, seed)
    left, signed = firsts[has_shingles(signed)], signed[has_shingles(signed)]
    result[left] = left[near_clusters(signed, lambda position: texts[left[position]], threshold)]
    return result[result].tolist()


def clusters(texts: list[str], threshold: float, **settings: int) -> set[frozenset[str]]:
    """Return the clusters as sets of texts; all texts must be different."""
    members = defaultdict(set)
    for text, first in zip(texts, near_duplicates(texts, threshold, **settings), strict=True):
        members[first].add(text)
    return {frozenset(cluster) for cluster in members.values()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,\t WORLD!\n", "hello, world!"),
        ("Straße", "strasse"),
        ("ｆｕｌｌ\u00a0ｗｉｄｔｈ", "full width"),
        ("ﬁne", "fine"),
        ("Cafe\u0301", "café"),
        ("ﺍﻟﻌﺮﺑﻴﺔ", "العربية"),
        ("你好，世界", "你好,世界"),
        ("👍🏽 ok", "👍🏽 ok"),
        (" \u3000\n", ""),
        ("", ""),
    ],
)
def test_normalized_joins_spellings_of_one_text(text: str, expected: str) -> None:
    assert normalized(text) == expected


@given(st.text())
def test_normalizing_twice_changes_nothing(text: str) -> None:
    assert normalized(normalized(text)) == normalized(text)


def test_normalized_duplicates_point_to_the_first_of_their_form() -> None:
    assert normalized_duplicates(["b", "a", " B", "", "A\n", "b.", "\t", "\ud800"]) == [0, 1, 0, 3, 1, 5, 3, 7]
    assert normalized_duplicates([]) == []


def test_exact_duplicates_have_the_same_characters() -> None:
    assert exact_duplicates(["b", "a", " b", "B", "a", "a\n", "b", "\ud800"]) == [0, 1, 2, 3, 1, 5, 0, 7]
    # an e with an accent: as one character, and as two; NFKC would also join the ligature and the exponent
    assert exact_duplicates(["caf\u00e9", "cafe\u0301", "\ufb01ne", "fine", "x\u00b2", "x2"]) == [0, 0, 2, 3, 4, 5]


def test_shingles_are_word_trigrams_from_five_words_on_and_character_five_grams_below() -> None:
    assert shingles("a b c d e") == {"a b c", "b c d", "c d e"}
    assert shingles("ab cd ef") == {"ab cd", "b cd ", " cd e", "cd ef"}
    assert shingles("abcde") == {"abcde"}
    assert shingles("abcd") == set()


def test_scripts_without_spaces_are_compared_by_characters() -> None:
    assert shingles("今天 天气 很好 我们 出去") == {
        "今天 天气",
        "天 天气 ",
        " 天气 很",
        "天气 很好",
        "气 很好 ",
        " 很好 我",
        "很好 我们",
        "好 我们 ",
        " 我们 出",
        "我们 出去",
    }
    assert shingles("один два три четыре пять") == {"один два три", "два три четыре", "три четыре пять"}


@given(st.lists(st.one_of(FEW_WORDS, st.text(max_size=30)).map(normalized), min_size=1, max_size=8))
def test_hashed_windows_are_the_shingles_of_each_text(texts: list[str]) -> None:
    hashed = HashedTexts(texts)
    words, word_offsets = hashed.word_windows(dedup.SHINGLE_WORDS)
    characters, character_offsets = hashed.character_windows(dedup.SHINGLE_CHARACTERS)
    hash_of_shingle: dict[str, int] = {}
    for place, text in enumerate(texts):
        parts = text.split(" ")
        windows = [" ".join(parts[i : i + 3]) for i in range(len(parts) - 2)]
        found = words[word_offsets[place] : word_offsets[place + 1]].tolist()
        fives = [text[i : i + 5] for i in range(len(text) - 4)]
        found += characters[character_offsets[place] : character_offsets[place + 1]].tolist()
        for window, value in zip(windows + fives, found, strict=True):
            assert hash_of_shingle.setdefault(window, value) == value
    assert len(set(hash_of_shingle.values())) == len(hash_of_shingle)


# {abc, bcd, cde} and {abc, bcd, cdx}: 2 of 4 in common
@pytest.mark.parametrize(("threshold", "expected"), [(0.5, [0, 0]), (0.51, [0, 1])])
def test_a_pair_at_the_threshold_is_near_and_one_below_is_not(threshold: float, expected: list[int]) -> None:
    assert near_duplicates(["a b c d e", "a b c d x"], threshold) == expected


# 11 words, the last one changed: 8 shingles of 9 + 1 in common, which is 0.8
@pytest.mark.parametrize(("threshold", "expected"), [(0.8, [0, 0]), (0.81, [0, 1])])
def test_the_threshold_is_exact_where_the_ratio_is_a_decimal_fraction(threshold: float, expected: list[int]) -> None:
    assert near_duplicates(["a b c d e f g h i j k", "a b c d e f g h i j x"], threshold) == expected


def test_near_pairs_are_joined_into_one_cluster_under_its_earliest_text() -> None:
    # first ~ second ~ third at 2/4, first and third share 1 of 5: {bcd, cde, def}, {abc, bcd, cde}, {zab, abc, bcd}
    chain = ["b c d e f", "z a b c d", "a b c d e"]
    assert near_duplicates(["w o r d s", *chain], 0.5) == [0, 1, 1, 1]
    assert near_duplicates(["w o r d s", *chain[:2]], 0.5) == [0, 1, 2]


def test_texts_shorter_than_a_shingle_are_near_only_when_equal() -> None:
    assert near_duplicates(["yes", "Yes ", "yes!", "", " ", "好", "👍👍👍", "👍👍👍👍"], 0.1) == [
        0,
        0,
        2,
        3,
        3,
        5,
        6,
        7,
    ]
    assert near_duplicates([], 0.8) == []


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        # 30 characters, the last changed: 25 of 27 five-grams; the Arabic has 14 words, the last changed: 11 of 13
        (
            "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律",
            "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁吕",
        ),
        (
            "كان يا ما كان في قديم الزمان رجل يعيش في بيت صغير قرب النهر",
            "كان يا ما كان في قديم الزمان رجل يعيش في بيت صغير قرب البحر",
        ),
        ("👍🎉🚀" * 3 + "🙂🙃😉😀😁😂🤣😃😄😅😆😇", "👍🎉🚀" * 3 + "🙂🙃😉😀😁😂🤣😃😄😅😆🥲"),
    ],
    ids=["chinese", "arabic", "emoji"],
)
def test_any_script_is_compared(text: str, edited: str) -> None:
    assert jaccard(text, edited) >= 0.84
    assert near_duplicates(["something else altogether, in English", text, edited], 0.8) == [0, 1, 1]


def test_a_giant_text_is_compared_like_any_other() -> None:
    generator = random.Random(0)
    words = [f"w{generator.randrange(50_000)}" for _ in range(300_000)]
    edited = [*words[:150_000], "changed", *words[150_001:]]
    assert near_duplicates(["short text of six words here", " ".join(words), " ".join(edited)], 0.99) == [0, 1, 1]


@given(ANY_TEXTS)
def test_at_threshold_one_exactly_equal_shingle_sets_are_near(texts: list[str]) -> None:
    keys = [frozenset(shingles(normalized(text))) or normalized(text) for text in texts]
    assert near_duplicates(texts, 1.0) == [keys.index(key) for key in keys]


@settings(deadline=None)
@given(ANY_TEXTS, st.sampled_from([0.2, 0.5, 0.8]), st.integers(0, 2**64 - 1))
def test_every_cluster_is_connected_by_near_pairs_and_named_by_its_earliest_text(
    texts: list[str], threshold: float, seed: int
) -> None:
    result = near_duplicates(iter(texts), threshold, seed)
    assert result == near_duplicates(texts, threshold, seed)
    assert len(result) == len(texts)
    parents = list(range(len(texts)))
    for one, other in combinations(range(len(texts)), 2):
        if jaccard(texts[one], texts[other]) >= threshold:
            parents = [parents[one] if parent == parents[other] else parent for parent in parents]
    for index, first in enumerate(result):
        assert first <= index
        assert result[first] == first
        assert parents[first] == parents[index]


def planted(seed: int) -> tuple[list[str], list[tuple[int, int]]]:
    """Return (2,000 texts of 30 words, [(original, copy)]): 200 copies have one changed word, and 100 have five."""
    generator = random.Random(seed)
    vocabulary = [f"word{n}" for n in range(5_000)]
    texts = [generator.choices(vocabulary, k=30) for _ in range(2_000)]
    pairs = []
    for number in range(300):
        copy = list(texts[number])
        for place in generator.sample(range(30), 1 if number < 200 else 5):
            copy[place] = f"changed{number}"
        texts[1_000 + number] = copy
        pairs.append((number, 1_000 + number))
    return [" ".join(words) for words in texts], pairs


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_copies_are_found_and_nothing_else_is(seed: int) -> None:
    texts, pairs = planted(seed)
    similarity = {copy: jaccard(texts[original], texts[copy]) for original, copy in pairs}
    # one word inside changes 3 shingles of 28: 25 / 31
    assert min(list(similarity.values())[:200]) == 25 / 31
    threshold = 0.75
    result = near_duplicates(texts, threshold, seed)
    expected = [(original, copy) for original, copy in pairs if similarity[copy] >= threshold + 0.05]
    assert len(expected) >= 200
    assert sum(result[copy] == original for original, copy in expected) >= 0.99 * len(expected)
    joined = {(first, index) for index, first in enumerate(result) if first != index}
    assert joined <= {(original, copy) for original, copy in pairs if similarity[copy] >= threshold}


def test_clusters_do_not_depend_on_the_order_of_texts() -> None:
    texts, _ = planted(2)
    shuffled = random.Random(3).sample(texts, len(texts))
    assert clusters(texts, 0.75) == clusters(shuffled, 0.75)


def test_the_same_seed_gives_the_same_signatures_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = planted(4)
    expected = dedup.signatures(texts, len(texts), 16, 5)
    other_seed = dedup.signatures(texts, len(texts), 16, 6)
    monkeypatch.setattr(dedup, "CHUNK_CHARACTERS", 1_000)
    assert (expected == dedup.signatures(texts, len(texts), 16, 5)).all()
    # also in batches: a signature depends on its text alone
    assert (expected[10:20] == dedup.signatures(texts[10:20], 10, 16, 5)).all()
    assert (expected != other_seed).mean() > 0.99


def test_a_giant_cluster_costs_about_one_comparison_for_each_text(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(0)
    base = [f"word{n}" for n in range(100)]
    texts = [
        " ".join([*base[:place], f"changed{number}", *base[place + 1 :]])
        for number, place in ((number, generator.randrange(100)) for number in range(3_000))
    ]
    compared = []
    monkeypatch.setattr(dedup, "shingles", lambda text: compared.append(text) or shingles(text))
    assert set(near_duplicates(texts, 0.8)) == {0}
    assert len(compared) <= 1.5 * len(texts)


@pytest.mark.parametrize(("threshold", "shape"), [(1.0, (1, 128)), (0.8, (21, 6)), (0.5, (42, 3)), (0.01, (128, 1))])
def test_bands_have_a_recall_of_99_percent_at_the_threshold(threshold: float, shape: tuple[int, int]) -> None:
    bands, rows = band_shape(threshold, 128)
    assert (bands, rows) == shape
    if threshold > 0.04:
        assert 1 - (1 - threshold**rows) ** bands >= 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0 is outside"),
        ({"threshold": 1.1}, "threshold=1.1 is outside"),
        ({"threshold": 0.8, "num_perm": 0}, "num_perm=0 is below 1"),
        ({"threshold": 0.8, "seed": -1}, "seed=-1 is outside"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        near_duplicates(["a"], **settings)
