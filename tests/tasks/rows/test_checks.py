"""Checks of content: each finds its bad row and follows its policy, and the counts include every row that was read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.loading import LoadedData, load_data

from configs.schema import DataConfig
from tasks.get_data.merge import summary_lines
from tasks.rows.invalid import InvalidRowsError

GOOD = [{"prompt": f"question number {n}", "completion": f"answer {n}"} for n in range(20)]
LONG = "the quick brown fox jumps over the lazy dog while the sun sets behind the old grey mill"
BAD: dict[str, list[dict[str, str]]] = {
    "placeholder": [{"prompt": "Dear {{name}}, hello", "completion": "a"}],
    "replacement_character": [{"prompt": "caf\ufffd", "completion": "a"}],
    "length": [{"prompt": "short", "completion": "ab" * 600}],
    "repeats_prompt": [{"prompt": "Tell me a story.", "completion": "Tell me a story. Once upon a time"}],
    "conflict": [{"prompt": "one question", "completion": "yes"}, {"prompt": "one question", "completion": "no"}],
}
PREFERENCES = [{"prompt": f"question number {n}", "chosen": "good", "rejected": "bad"} for n in range(20)]


def load(path: Path, rows: list[dict[str, str]], checks: dict[str, object], **settings: object) -> LoadedData:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_data(
        DataConfig(sources=[{"path": str(path)}], checks=checks, **settings),
    )


def assert_counts_add_up(data: LoadedData) -> None:
    for count in data.report.sources:
        assert count.read == count.kept + count.quarantined + count.deduplicated
    kept = sum(count.kept for count in data.report.sources)
    assert kept == data.report.train_rows + data.report.test_rows == len(data.train) + len(data.test)


@pytest.mark.parametrize("check", [*BAD, "same_answers"])
@pytest.mark.parametrize("policy", ["fail", "quarantine", "warn"])
def test_each_check_follows_its_policy(check: str, policy: str, tmp_path: Path) -> None:
    bad = BAD.get(check, [{"prompt": "q", "chosen": "same", "rejected": " same"}])
    good = PREFERENCES if check == "same_answers" else GOOD
    checks = {check: policy, "max_characters": 1000}
    if policy == "fail":
        with pytest.raises(InvalidRowsError, match=rf"rows.jsonl row 21, .*{len(bad)} invalid row"):
            _one_line(lambda: load(tmp_path / "rows.jsonl", [*good, *bad], checks))
        data = load(tmp_path / "rows.jsonl", [*good, *bad], checks, max_invalid_rows=len(bad))
    else:
        data = load(tmp_path / "rows.jsonl", [*good, *bad], checks)
    assert_counts_add_up(data)
    [count] = [c for c in data.report.checks if c.check == check]
    assert (count.policy, count.rows) == (policy, len(bad))
    assert count.first_rows == [f"rows.jsonl:{21 + n}" for n in range(len(bad))]
    num_invalid = len(bad) if policy == "fail" else 0
    assert (data.report.invalid_rows, data.report.max_invalid_rows) == (num_invalid, num_invalid)
    kept = 20 + (len(bad) if policy == "warn" else 0)
    assert data.report.sources[0].kept == kept
    assert set(data.quarantine.check) == (set() if policy == "warn" else {check})
    assert any(check in line for line in summary_lines(data.report))


def _one_line(run) -> None:  # type: ignore[no-untyped-def]
    """Raise the error of `run` with its message on one line, so that a pattern can match all of it."""
    try:
        run()
    except InvalidRowsError as error:
        raise InvalidRowsError(str(error).replace("\n", " ")) from None


def test_good_rows_pass_every_check(tmp_path: Path) -> None:
    rows = [
        *GOOD,
        {"prompt": "Write CSS: a {b: c}", "completion": "f'{x}' {% endraw"},
        {"prompt": "hi", "completion": "hi"},
    ]
    data = load(tmp_path / "rows.jsonl", rows, {})
    assert [count.check for count in data.report.checks] == ["repeats_prompt"]


def test_system_turns_in_only_some_conversations_give_a_warning(tmp_path: Path) -> None:
    def chat(n: int) -> dict:
        turns = [{"role": "system", "content": "s"}] if n % 4 == 0 else []
        return {"messages": [*turns, {"role": "user", "content": f"u {n}"}, {"role": "assistant", "content": "a"}]}

    data = load(tmp_path / "rows.jsonl", [chat(n) for n in range(60)], {})
    assert data.report.warnings == ["15 of 60 conversations have a system turn, the others have none"]
    assert load(tmp_path / "rows.jsonl", [chat(n) for n in range(60)], {"system_prompts": "off"}).report.warnings == []


@pytest.mark.parametrize(("distinct", "warned"), [(1, False), (2, True), (10, True), (11, False)])
def test_two_to_ten_different_system_prompts_give_a_warning(distinct: int, warned: bool, tmp_path: Path) -> None:
    def chat(n: int) -> dict:
        # all rows but distinct - 1 have the first prompt
        system = {"role": "system", "content": f"prompt {n if n < distinct else 0} "}
        return {"messages": [system, {"role": "user", "content": f"u {n}"}, {"role": "assistant", "content": "a"}]}

    counts = ", ".join([str(61 - distinct), *["1"] * (distinct - 1)])
    expected = [f"60 conversations have {distinct} different system prompts: {counts} rows"] if warned else []
    assert load(tmp_path / "rows.jsonl", [chat(n) for n in range(60)], {}).report.warnings == expected


def test_a_removed_near_duplicate_conflicts_with_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": " ".join(f"word{n}x{m}" for m in range(40)), "completion": f"answer {n}"} for n in range(20)]
    rows.append({**rows[0], "completion": "answer 0 indeed"})
    kept = load(tmp_path / "rows.jsonl", rows, {"conflict": "quarantine"}, deduplicate="near")
    assert [(c.kept, c.quarantined, c.deduplicated) for c in kept.report.sources] == [(20, 0, 1)]
    both = load(tmp_path / "rows.jsonl", rows, {"conflict": "quarantine"}, deduplicate="exact")
    assert [(c.kept, c.quarantined, c.deduplicated) for c in both.report.sources] == [(19, 2, 0)]


LABELLED = [{"prompt": f"question number {n}", "completion": "good", "label": n % 2 == 0} for n in range(20)]


@pytest.mark.parametrize(
    ("others", "expected"),
    [(PREFERENCES, None), (LABELLED, "no objective takes all of these kinds of rows: 20 pair, 20 kto")],
)
def test_kinds_of_rows_that_no_objective_takes_together_give_a_warning(
    others: list[dict], expected: str | None, tmp_path: Path
) -> None:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    (tmp_path / "others.jsonl").write_text("".join(json.dumps(row) + "\n" for row in others))
    sources = [{"path": str(tmp_path / f"{name}.jsonl")} for name in ("pairs", "others")]
    warnings = load_data(DataConfig(sources=sources, deduplicate="none")).report.warnings
    assert [warning for warning in warnings if "these kinds" in warning] == ([expected] if expected else [])


def test_the_first_of_exact_duplicates_is_kept(tmp_path: Path) -> None:
    rows = [*GOOD, {"prompt": " Question NUMBER 3", "completion": "answer  3"}, GOOD[5]]
    data = load(tmp_path / "rows.jsonl", rows, {}, deduplicate="normalized")
    assert_counts_add_up(data)
    assert (data.report.deduplicated_rows, data.report.sources[0].kept) == (2, 20)
    assert "rows.jsonl:21" not in [*data.train.row_id, *data.test.row_id]
    assert list(data.quarantine[["row", "check", "reason"]].itertuples(index=False, name=None)) == [
        (21, "duplicate", "is the same, apart from case and white space, as rows.jsonl:4"),
        (22, "duplicate", "is the same, apart from case and white space, as rows.jsonl:6"),
    ]
    assert load(tmp_path / "rows.jsonl", rows, {}, deduplicate="none").report.deduplicated_rows == 0
    assert data.report.counts_line().endswith(
        "22 rows read = 20 kept (18 train, 2 test) + 0 quarantined + 2 deduplicated"
    )


def test_exact_duplicates_have_the_same_white_space(tmp_path: Path) -> None:
    # a prompt and the same with a changed indentation; the last row repeats the first one
    code = [
        {"prompt": f"Mend the indentation of {n}:\nif x:\n  y\n{space}z", "completion": "done"}
        for n in range(10)
        for space in ("", "  ")
    ]
    data = load(tmp_path / "rows.jsonl", [*code, code[0]], {"conflict": "fail"}, deduplicate="exact")
    assert (data.report.sources[0].kept, data.report.deduplicated_rows) == (20, 1)
    assert list(data.quarantine.reason) == ["is the same as rows.jsonl:1"]
    folded = load(tmp_path / "rows.jsonl", [*code, code[0]], {}, deduplicate="normalized")
    assert (folded.report.sources[0].kept, folded.report.deduplicated_rows) == (10, 11)


@pytest.mark.parametrize(("deduplicate", "conflicts"), [("exact", 0), ("normalized", 2), ("near", 2)])
def test_prompts_of_conflicts_are_compared_as_rows_are(deduplicate: str, conflicts: int, tmp_path: Path) -> None:
    rows = [*GOOD, {"prompt": "one question", "completion": "yes"}, {"prompt": "One  question", "completion": "no"}]
    report = load(tmp_path / "rows.jsonl", rows, {}, deduplicate=deduplicate).report
    assert sum(count.rows for count in report.checks if count.check == "conflict") == conflicts


def test_near_duplicates_are_removed_only_if_configured(tmp_path: Path) -> None:
    rows = [*GOOD, {"prompt": LONG, "completion": LONG}, {"prompt": LONG, "completion": f"{LONG} again"}]
    assert load(tmp_path / "rows.jsonl", rows, {}, deduplicate="exact").report.deduplicated_rows == 0
    data = load(tmp_path / "rows.jsonl", rows, {}, deduplicate="near")
    assert data.report.deduplicated_rows == 1
    assert list(data.quarantine.reason) == ["is nearly the same as rows.jsonl:21"]
    assert load(tmp_path / "rows.jsonl", rows, {}, deduplicate="near", near_threshold=1.0).report.deduplicated_rows == 0


def test_an_error_names_the_setting_of_its_check(tmp_path: Path) -> None:
    with pytest.raises(InvalidRowsError) as caught:
        load(tmp_path / "rows.jsonl", [*GOOD, *BAD["placeholder"]], {})
    assert str(caught.value).startswith(
        "rows.jsonl row 21, column (row): holds a template placeholder such as {{name}}, outside of code "
        "(data.checks.placeholder: warn keeps such rows)\n"
    )
    with pytest.raises(InvalidRowsError, match=r"column completion: is empty\n1 invalid row"):
        load(tmp_path / "rows.jsonl", [*GOOD, {"prompt": "q", "completion": ""}], {})


@pytest.mark.parametrize(
    ("prompt", "completion", "is_forgotten"),
    [
        ("Dear {{name}}, hello", "yes", True),
        ("Answer the question", "{{ answer }}", True),
        ("{% if user %} hello", "yes", True),
        ("Say hello", "Hello {{user.name}}, here is a list: `a`", True),
        ("Write a Vue view of Oslo", "{{ Oslo }}", False),
        ("Show the city", "<p>{{ city }}</p>", False),
        ("Show the city", '<city-view :name="city" />{{ city }}', False),
        ("Show the city", "Write `{{ city }}` there", False),
        ("Show the city", "So:\n```html\n{{ city }}\n```\n", False),
        ("Show the cities", "{% for city in cities %}{{ city }}{% endfor %}", False),
        ("Show the cities", "{{#each cities}}{{ this }}{{/each}}", False),
        ("What does {{ x }} mean in Jinja2?", "It prints x", False),
        ("Write an email template", "Dear {{name}},", False),
        ("A set in LaTeX", "${{1, 2}}$ and {{{ }", False),
    ],
)
def test_code_with_templates_is_no_forgotten_placeholder(
    prompt: str, completion: str, is_forgotten: bool, tmp_path: Path
) -> None:
    rows = [*GOOD, {"prompt": prompt, "completion": completion}]
    data = load(tmp_path / "rows.jsonl", rows, {"placeholder": "warn"})
    assert [count.check for count in data.report.checks] == (["placeholder"] if is_forgotten else [])


@pytest.mark.parametrize(("policy", "kept"), [("warn", 21), ("quarantine", 20)])
def test_rows_with_text_of_an_evaluation_set_are_found(policy: str, kept: int, tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": LONG, "completion": "x"}) + "\n")
    data = load(
        tmp_path / "rows.jsonl",
        [*GOOD, {"prompt": f"Please note: {LONG}.", "completion": "yes"}],
        {},
        contamination=[{"path": str(evaluation)}],
        contamination_policy=policy,
    )
    assert_counts_add_up(data)
    [count] = data.report.checks
    assert (count.check, count.first_rows, data.report.sources[0].kept) == ("contamination", ["rows.jsonl:21"], kept)


def test_no_group_spans_two_splits(tmp_path: Path) -> None:
    rows = [{**row, "author": f"a{n // 4}"} for n, row in enumerate(GOOD)]
    data = load(tmp_path / "rows.jsonl", rows, {}, group_by="author", test_fraction=0.2)
    authors = [{(int(row_id.split(":")[1]) - 1) // 4 for row_id in part.row_id} for part in (data.train, data.test)]
    assert not authors[0] & authors[1]
    assert len(data.test) == 4
    with pytest.raises(Exception, match=r"data.group_by=writer: data.sources\[0\] .* has no such column"):
        load(tmp_path / "rows.jsonl", rows, {}, group_by="writer")


@pytest.mark.parametrize(
    ("bounds", "failing"),
    [({}, 0), ({"min_characters": 9}, 10), ({"max_characters": 27}, 0), ({"max_characters": 26}, 10)],
)
def test_length_bounds_are_inclusive(bounds: dict[str, int], failing: int, tmp_path: Path) -> None:
    # "answer 0" to "answer 9" have 8 characters, "answer 10" and on have 9; the longest rows have 18 + 9
    data = load(tmp_path / "rows.jsonl", GOOD, {"length": "warn", **bounds})
    assert sum(count.rows for count in data.report.checks) == failing


def test_an_ngram_longer_than_the_shared_text_finds_nothing(tmp_path: Path) -> None:
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(json.dumps({"prompt": f"{LONG} {LONG[::-1]}", "completion": "x"}) + "\n")
    # the row shares the first eight words
    rows = [*GOOD, {"prompt": " ".join(LONG.split()[:8]) + " and then something else happened", "completion": "yes"}]
    for ngram, found in ((8, ["contamination"]), (9, [])):
        settings = {"contamination": [{"path": str(evaluation)}], "contamination_ngram": ngram}
        data = load(tmp_path / "rows.jsonl", rows, {}, **settings)
        assert [count.check for count in data.report.checks] == found
        assert any("data.contamination" in line for line in summary_lines(data.report)) is bool(found)
