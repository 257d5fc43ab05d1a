"""Balance of languages, labels and classes: counts, warnings, and the same results from shards as from one machine."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice

import pytest
from conftest import ROOT, SHARED_DATA

from tasks.get_data.balance import CompletionCounts, LabelCounts, LanguageCounts

PARAGRAPHS = {
    "en": [
        "The garden behind the house is loveliest in spring, when the apple trees bloom and children play outside.",
        "He wrote a long letter to his brother and told him about the journey, the weather and the price of bread.",
        "Before the shop opens, the baker sets out the loaves and counts the coins that were left in the drawer.",
    ],
    "de": [
        "Der Garten hinter dem Haus ist im Frühling am schönsten, wenn die Apfelbäume blühen und Kinder spielen.",
        "Er schrieb seinem Bruder einen langen Brief über die Reise, das Wetter und den Preis des Brotes.",
    ],
    "fr": [
        "Le jardin derrière la maison est plus beau au printemps, quand les pommiers sont en fleurs.",
        "Il a écrit une longue lettre à son frère pour lui raconter le voyage, le temps et le prix du pain.",
    ],
    "es": [
        "El jardín detrás de la casa es más bonito en primavera, cuando los manzanos florecen y los niños juegan.",
        "Le escribió a su hermano una carta larga sobre el viaje, el tiempo que hacía y el precio del pan.",
    ],
    "zh": [
        "春天的时候，房子后面的花园最漂亮。苹果树开花了，孩子们又可以在外面玩。",
        "他给弟弟写了一封很长的信，告诉他旅途、天气和面包的价格。",
    ],
    "ru": [
        "Весной сад за домом особенно красив: цветут яблони, и дети снова могут играть на улице.",
        "Он написал брату длинное письмо о поездке, о погоде и о том, сколько теперь стоит хлеб.",
    ],
}


def row_ids(texts: Sequence[str]) -> list[str]:
    return [f"rows.jsonl:{number}" for number in range(1, len(texts) + 1)]


def languages(texts: Sequence[str], max_rows: int = 5000) -> LanguageCounts:
    counts = LanguageCounts(max_rows)
    counts.add(texts, row_ids(texts))
    return counts


def english(count: int) -> list[str]:
    return [f"{PARAGRAPHS['en'][n % 3]} It happened {n} times." for n in range(count)]


@pytest.mark.parametrize("code", PARAGRAPHS)
def test_the_language_of_each_paragraph_is_identified(code: str) -> None:
    assert languages(PARAGRAPHS[code]).counts() == [(code, len(PARAGRAPHS[code]))]


def test_counts_of_a_mixed_file_are_in_descending_order() -> None:
    texts = PARAGRAPHS["de"] + PARAGRAPHS["en"] + ["42 + 17 = 59"]
    counts = languages(texts)
    assert counts.counts() == [("en", 3), ("de", 2), ("unknown", 1)]
    assert counts.num_sampled == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234 5678 90 12 34 56 78 90 12 34 56 78 90 12 34 56 78 90 12 34 56 78",
        "SELECT orders.id FROM orders JOIN customers ON orders.customer_id = customers.id ORDER BY orders.amount",
        "\ud800 half a surrogate pair",
        # the library is sure that this is no language
        hashlib.sha512(b"a").hexdigest() * 2,
    ],
    ids=["empty", "digits", "sql", "surrogate", "digest"],
)
def test_texts_in_no_language_are_unknown(text: str) -> None:
    assert languages([text]).counts() == [("unknown", 1)]


def test_a_text_needs_fifty_letters_to_have_a_language() -> None:
    # the letters alone are counted: 45 in the sentence, and 4 or 5 in the last word
    sentence = "I have told them that we will be there with the children "
    assert sum(map(str.isalpha, sentence)) == 45
    assert languages([sentence + "soon"]).counts() == [("unknown", 1)]
    assert languages([sentence + "again"]).counts() == [("en", 1)]


def test_letters_outside_ascii_count_by_their_bytes() -> None:
    # 17 Chinese characters of 3 bytes say as much as 51 Latin letters
    assert languages(["春天的时候我们常常在花园里听鸟儿唱"]).counts() == [("zh", 1)]


def test_only_the_first_thousand_characters_are_read() -> None:
    start = (PARAGRAPHS["en"][0] + " ") * 20
    assert languages([start[:1000] + " ".join(PARAGRAPHS["ru"] * 50)]).counts() == [("en", 1)]


def mixed_rows() -> list[tuple[str, str]]:
    texts = english(150) + [f"{text} {n}" for n in range(20) for text in PARAGRAPHS["de"] + PARAGRAPHS["zh"]]
    return list(zip(texts, row_ids(texts), strict=True))


def add_in_batches(counts: LanguageCounts, rows: list[tuple[str, str]], size: int) -> None:
    remaining = iter(rows)
    while batch := list(islice(remaining, size)):
        counts.add([text for text, _ in batch], [row_id for _, row_id in batch])


@pytest.mark.parametrize("num_shards", [1, 2, 7])
def test_merged_shards_give_the_counts_of_one_machine(num_shards: int) -> None:
    rows = mixed_rows()
    whole = LanguageCounts(max_rows=40)
    add_in_batches(whole, rows, 1000)
    shuffled = random.Random(num_shards).sample(rows, len(rows))
    states = []
    for shard in range(num_shards):
        part = LanguageCounts(max_rows=40)
        add_in_batches(part, shuffled[shard::num_shards], 9)
        states.append(json.loads(json.dumps(part.state())))
    merged = LanguageCounts(max_rows=40)
    merged.merge(states)
    assert merged.num_sampled == 40
    assert merged.state() == whole.state()
    assert merged.counts() == whole.counts() and len(whole.counts()) == 3


def test_rows_can_be_added_before_and_after_a_merge() -> None:
    rows = mixed_rows()
    whole, first, second = LanguageCounts(40), LanguageCounts(40), LanguageCounts(40)
    add_in_batches(whole, rows, 50)
    add_in_batches(first, rows[:100], 50)
    add_in_batches(second, rows[100:200], 50)
    first.merge([second.state()])
    add_in_batches(first, rows[200:], 50)
    assert first.state() == whole.state()


def test_the_sample_is_drawn_from_the_whole_file() -> None:
    texts = english(400) + [f"{PARAGRAPHS['de'][n % 2]} {n}" for n in range(400)]
    counts = dict(languages(texts, max_rows=200).counts())
    # 100 of each are expected; 6 standard deviations of a fair draw are 42
    assert sum(counts.values()) == 200 and 58 < counts["de"] < 142


def test_rows_with_the_same_beginning_are_sampled_independently() -> None:
    beginnings = [(PARAGRAPHS[code][0] + " ") * 20 for code in ("en", "de")]
    assert all(len(beginning) > 1000 for beginning in beginnings)
    counts = languages([f"{beginning}{n}" for n in range(100) for beginning in beginnings], max_rows=50).counts()
    # hashed by their beginnings alone, all 50 would be in one language; 25 of each are expected, deviation 3
    assert [language for language, rows in counts if rows > 10] in (["en", "de"], ["de", "en"])


def test_a_warning_names_the_rows_in_stray_languages() -> None:
    texts = [*english(97), *PARAGRAPHS["de"], PARAGRAPHS["fr"][0]]
    [warning] = languages(texts).warnings()
    assert warning.startswith("3 of 100 sampled rows seem to be in another language than en (de 2, fr 1), such as ")
    assert all(f"rows.jsonl:{row}" in warning for row in (98, 99, 100))
    assert "Garten" not in warning and "jardin" not in warning


def test_frequent_languages_give_no_warning() -> None:
    def warnings(num_german: int, num_english: int) -> list[str]:
        return languages(english(num_english) + [f"{PARAGRAPHS['de'][0]} {n}" for n in range(num_german)]).warnings()

    assert warnings(0, 100) == []
    assert warnings(5, 95) == []  # 5 %: exactly the bound
    assert len(warnings(5, 96)) == 1
    texts = english(80) + [f"{PARAGRAPHS['de'][0]} {n}" for n in range(18)] + PARAGRAPHS["fr"]
    assert languages(texts).warnings() == []  # 80 %: no language is the main one
    assert len(languages(english(2) + texts).warnings()) == 1


def test_rows_in_unknown_languages_do_not_count_in_the_shares() -> None:
    texts = english(30) + [f"{n} + {n}" for n in range(200)] + PARAGRAPHS["fr"][:1]
    [warning] = languages(texts).warnings()
    assert warning.startswith("1 of 231 sampled rows seems to be in another language than en (fr 1), such as ")


def english_files() -> dict[str, list[str]]:
    chats = json.loads((SHARED_DATA / "preferences_sharegpt.json").read_text(encoding="utf-8"))
    problems = [json.loads(line) for line in (SHARED_DATA / "gsm8k_train.jsonl").open(encoding="utf-8")]
    tasks = [json.loads(line) for line in (SHARED_DATA / "self_instruct_seed_tasks.jsonl").open(encoding="utf-8")]
    return {
        "gsm8k": [f"{row['question']}\n{row['answer']}" for row in problems],
        "wiki": (SHARED_DATA / "wiki.txt").read_text(encoding="utf-8").splitlines(),
        "seed_tasks": [
            "\n".join((row["instruction"], part["input"], part["output"])) for row in tasks for part in row["instances"]
        ],
        "preferences": ["\n".join(turn["value"] for turn in (*row["conversations"], row["chosen"])) for row in chats],
    }


@pytest.mark.skipif(not SHARED_DATA.exists(), reason="needs the shared data files")
@pytest.mark.parametrize(
    ("name", "min_share", "max_others"),
    [
        # two seed tasks are to translate into Chinese; five preferences are translations from or into the others
        ("gsm8k", 0.995, 0),
        ("wiki", 1.0, 0),
        ("seed_tasks", 0.95, 2),
        ("preferences", 0.95, 5),
    ],
)
def test_real_english_files_are_english(name: str, min_share: float, max_others: int) -> None:
    counts = languages(english_files()[name])
    found = dict(counts.counts())
    assert found["en"] >= min_share * counts.num_sampled
    assert counts.num_sampled - found["en"] - found.get("unknown", 0) <= max_others


def test_the_library_is_loaded_only_when_a_language_is_asked_for() -> None:
    code = (
        "import sys; from tasks.get_data.balance import LanguageCounts; counts = LanguageCounts();"
        "counts.add(['A text.'], ['a:1']); print('py3langid' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def labels(true: int, false: int) -> LabelCounts:
    counts = LabelCounts()
    counts.add(["true"] * true + ["false"] * false + [""])
    return counts


def test_labels_are_counted_and_merged() -> None:
    first, second = labels(3, 1), labels(1, 0)
    first.merge([json.loads(json.dumps(second.state()))])
    assert first.counts() == [("true", 4), ("false", 1)]
    assert LabelCounts().counts() == []


@pytest.mark.parametrize(
    ("true", "false", "expected"),
    [
        (400, 100, None),
        (100, 400, None),
        (0, 0, None),
        # 9 x 1 to 9 x 4/3, so that desirable to undesirable is 1:1 to 4:3
        (100, 900, "900 false to 100 true; desirable_weight=9 to 12 with undesirable_weight=1 would balance them"),
        # 9 x 3/4 to 9 x 1
        (900, 100, "900 true to 100 false; undesirable_weight=6.75 to 9 with desirable_weight=1 would balance them"),
        (401, 100, "401 true to 100 false"),
        (7, 0, "all 7 KTO labels are true"),
        (0, 7, "all 7 KTO labels are false"),
    ],
)
def test_label_ratios_above_four_to_one_give_a_warning(true: int, false: int, expected: str | None) -> None:
    warnings = labels(true, false).warnings()
    if expected is None:
        assert warnings == []
    else:
        [warning] = warnings
        assert expected in warning


def completions(values: dict[str, int]) -> CompletionCounts:
    counts = CompletionCounts()
    counts.add([value for value, rows in values.items() for _ in range(rows)])
    return counts


def test_classes_are_counted_without_case_and_white_space() -> None:
    counts = completions({"Positive": 120, " positive\n": 20, "Negative": 60})
    assert counts.counts() == [("positive", 140), ("negative", 60)]
    assert counts.warnings() == []


def test_a_classification_has_at_least_200_rows() -> None:
    assert completions({"yes": 100, "no": 99}).counts() == []
    assert completions({"yes": 100, "no": 100}).counts() == [("no", 100), ("yes", 100)]


def test_a_classification_has_at_most_fifty_classes() -> None:
    fifty = {f"class {n:02}": 4 for n in range(50)}
    # the twenty classes with most rows are shown, in the order of their names where rows are equal
    assert completions(fifty).counts() == [(f"class {n:02}", 4) for n in range(20)]
    assert completions(fifty).num_distinct == 50
    assert completions(fifty | {"one more": 4}).counts() == []


def test_a_long_completion_is_no_class() -> None:
    assert len(completions({"a" * 100: 150, "b": 150}).counts()) == 2
    assert completions({"a" * 101: 1, "b": 300}).counts() == []


def test_a_dominant_class_gives_a_warning_without_its_content() -> None:
    assert completions({"secret": 900, "b": 100}).warnings() == []
    [warning] = completions({"secret": 901, "b": 99}).warnings()
    assert "901 of 1,000 rows have the same completion (2 distinct ones in all)" in warning
    assert "secret" not in warning
    assert completions({"a" * 101: 950, "b": 50}).warnings() == []


@pytest.mark.parametrize("num_distinct", [3, 50, 51, 60])
@pytest.mark.parametrize("num_shards", [2, 5])
def test_classes_do_not_depend_on_the_shards(num_distinct: int, num_shards: int) -> None:
    values = [f"class {n % num_distinct}" for n in range(600)]
    whole = CompletionCounts()
    whole.add(values)
    merged = CompletionCounts()
    parts = [CompletionCounts() for _ in range(num_shards)]
    size = len(values) // num_shards
    for number, part in enumerate(parts):
        # shards are runs of sorted rows, so that one shard may have fewer classes than all rows have
        part.add(sorted(values)[number * size : (number + 1) * size])
    merged.merge([json.loads(json.dumps(part.state())) for part in parts])
    assert merged.state() == whole.state()
    assert merged.counts() == whole.counts()
    assert bool(whole.counts()) == (num_distinct <= 50)


def test_one_shard_with_too_many_classes_decides_for_all() -> None:
    few, many = completions({"yes": 300}), completions({f"class {n}": 1 for n in range(51)})
    few.merge([json.loads(json.dumps(many.state()))])
    assert few.state() is None and few.counts() == [] and few.warnings() == []
