"""Which training rows are shown as examples, and a row with them before its own turns."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.token_rows import Row, canonical, labelled

from configs.errors import DataError
from configs.objectives import Objective, fault_of_few_shot
from tasks.tokenize.examples import choose_examples, with_examples
from tasks.tokenize.rows import Row as CanonicalRow

Choose = Callable[..., list[CanonicalRow]]
QUESTIONS = [(f"What is {n} and {n}?", f"It is {2 * n}, since {n} and {n} make that.") for n in range(40)]
HELD_OUT: list[Row] = [("Held out?", "Yes.")]


@pytest.fixture
def choose(tmp_path: Path) -> Choose:
    def run(
        train: list[Row] | pd.DataFrame, k: int, held_out: list[Row] = HELD_OUT, **settings: object
    ) -> list[CanonicalRow]:
        frame = train if isinstance(train, pd.DataFrame) else canonical(train)
        frame.fillna("").to_parquet(tmp_path / "train.parquet")
        canonical(held_out).fillna("").to_parquet(tmp_path / "test.parquet")
        return choose_examples(tmp_path / "train.parquet", k, tmp_path / "test.parquet", **settings)

    return run


def prompts(rows: list[CanonicalRow]) -> list[str]:
    return [row.prompt for row in rows]


def test_the_choice_depends_on_content_and_seed_and_not_on_the_order_or_number_of_rows(choose: Choose) -> None:
    chosen = prompts(choose(QUESTIONS, 4))
    assert len(set(chosen)) == 4
    assert prompts(choose([*reversed(QUESTIONS)], 4)) == chosen
    assert prompts(choose([*QUESTIONS, *QUESTIONS, *QUESTIONS[:7]], 4)) == chosen
    others = [prompts(choose(QUESTIONS, 4, seed=seed)) for seed in range(1, 4)]
    assert chosen not in others and len({tuple(other) for other in others}) == 3


def test_long_rows_are_no_examples_while_there_are_short_ones(choose: Choose) -> None:
    # 21 of 40 rows are short, so the median is short
    rows = [(f"{prompt}{' Why?' * 50 if n >= 21 else ''}", answer) for n, (prompt, answer) in enumerate(QUESTIONS)]
    for seed in range(5):
        assert all("Why?" not in prompt for prompt in prompts(choose(rows, 15, seed=seed)))
    # all short ones, then the shortest of the others
    longer = [(f"{prompt}{' Why?' * (n - 18)}", answer) for n, (prompt, answer) in enumerate(QUESTIONS) if n > 18]
    chosen = prompts(choose(longer[:5], 4))
    assert sorted(prompt.count("Why?") for prompt in chosen) == [1, 2, 3, 4]


def test_each_label_is_shown_equally_often_and_labels_are_not_in_turns(choose: Choose) -> None:
    # nine of ten rows are refunds
    rows = [(f"Message {n}", "refund" if n % 10 else ("Praise" if n % 20 else "praise ")) for n in range(100)]
    answers = [[row.completion.strip().lower() for row in choose(rows, 6, seed=seed)] for seed in range(6)]
    assert all(Counter(found) == {"refund": 3, "praise": 3} for found in answers)
    assert len({tuple(found) for found in answers}) > 1
    # of more labels than examples, the frequent ones are shown
    assert [row.completion for row in choose(rows, 1)] == ["refund"]


def test_answers_that_are_mostly_distinct_are_no_labels(choose: Choose) -> None:
    # 9 answers in 40 rows, below 5 rows each: one of them in 32 rows
    rows = [(f"Message {n}", "common" if n >= 8 else f"rare {n}") for n in range(40)]
    counts = [Counter(row.completion for row in choose(rows, 9, seed=seed))["common"] for seed in range(5)]
    assert min(counts) > 1


def test_no_example_asks_what_a_held_out_row_asks_or_what_another_example_does(choose: Choose) -> None:
    asked = [(prompt.upper() + "  ", "?") for prompt, _ in QUESTIONS[:30]]
    as_turns = [[("user", prompt), ("assistant", "?")] for prompt, _ in QUESTIONS[30:33]]
    twice = [*QUESTIONS, *((prompt, "Another answer.") for prompt, _ in QUESTIONS)]
    chosen = prompts(choose(twice, 7, [*asked, *as_turns]))
    assert sorted(chosen) == sorted(prompt for prompt, _ in QUESTIONS[33:])


def test_rows_without_a_prompt_and_with_unwanted_answers_are_no_examples(choose: Choose) -> None:
    rows: list[Row] = ["Some text.", labelled("Hi", "Go away", False), labelled("Bye", "See you", True)]
    assert [(row.prompt, row.completion) for row in choose(rows, 1)] == [("Bye", "See you")]
    with pytest.raises(DataError, match=r"evaluate.few_shot=2: 1 training rows can be examples[^\0]*\nset it to 1$"):
        choose(rows, 2)
    with pytest.raises(DataError, match="set it to 0 to evaluate without examples"):
        choose(["Some text."], 2)


def test_conversations_with_one_answer_come_before_those_with_several(choose: Choose) -> None:
    several: list[Row] = [
        [("user", f"a{n}"), ("assistant", "b"), ("user", "c"), ("assistant", f"d{n}")] for n in range(9)
    ]
    one: Row = [("system", "Be brief. " * 20), ("user", "Hi"), ("assistant", "Ho")]
    not_trained: Row = [("user", "No"), ("assistant", "Never", 0)]
    assert prompts(choose([*several, one, not_trained], 1)) == ["Hi"]
    assert "Hi" in prompts(choose([*several, one, not_trained], 3))


def test_a_row_of_no_use_is_passed_over_however_many_there_are(choose: Choose) -> None:
    rows = [(f"Question {n}?", f"Some answer to {n}") for n in range(700)]
    assert prompts(choose(rows, 1, is_usable=lambda row: row.prompt == "Question 77?")) == ["Question 77?"]


def turns(row: CanonicalRow) -> list[tuple[str, str, int]]:
    return [(turn["role"], turn["content"], turn.get("weight", 1)) for turn in json.loads(row.messages)]


def messages(*given: tuple[str, str]) -> str:
    return json.dumps([{"role": role, "content": content} for role, content in given])


PAIR = CanonicalRow("f:1", "pair", "One?", "1", "")
CHAT = CanonicalRow("f:2", "messages", "Two?", "2", messages(("system", "Sums."), ("user", "Two?"), ("assistant", "2")))
SHOWN = [("user", "One?", 1), ("assistant", "1", 0), ("user", "Two?", 1), ("assistant", "2", 0)]


def test_the_turns_of_examples_come_after_the_system_turn_and_before_the_rows_own() -> None:
    given = messages(("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    row = CanonicalRow("f:3", "messages", "c", "d", given, "held-out", tools="[]", group="g")
    longer = with_examples(row, [PAIR, CHAT])
    own = [("user", "a", 1), ("assistant", "b", 1), ("user", "c", 1), ("assistant", "d", 1)]
    assert turns(longer) == [("system", "Be brief.", 1), *SHOWN, *own]
    assert longer._replace(messages=given) == row


@pytest.mark.parametrize(
    ("row", "own"),
    [
        (CanonicalRow("f:3", "pair", "c", "d", ""), [("user", "c", 1)]),
        (CanonicalRow("f:3", "preference", "c", "d", messages(("user", "c")), rejected="e"), [("user", "c", 1)]),
        (CanonicalRow("f:3", "kto", "c", "d", "", label="false"), [("user", "c", 1)]),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_the_answer_of_a_row_stays_in_its_own_column(row: CanonicalRow, own: list[tuple[str, str, int]]) -> None:
    longer = with_examples(row, [PAIR, CHAT])
    assert turns(longer) == [*SHOWN, *own]
    assert longer._replace(messages=row.messages) == row


def test_the_chosen_answer_of_a_preference_is_the_example_with_its_calls() -> None:
    answer = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    example = CanonicalRow("f:1", "preference", "One?", "", "", rejected="2", answer=json.dumps(answer))
    longer = with_examples(CanonicalRow("f:3", "pair", "c", "d", ""), [example])
    assert json.loads(longer.messages)[1] == {**answer, "weight": 0}


@pytest.mark.parametrize(
    ("objective", "shots", "fault"),
    [
        ("reward", 4, "evaluate.few_shot=4: train.objective=reward trains a reward model"),
        ("cpt", 4, "evaluate.few_shot=4: train.objective=cpt takes plain texts"),
        ("reward", 0, None),
        ("sft", 4, None),
        ("dpo", 4, None),
        ("grpo", 4, None),
    ],
)
def test_objectives_without_prompts_have_no_examples(objective: Objective, shots: int, fault: str | None) -> None:
    found = fault_of_few_shot(shots, objective)
    assert found is None if fault is None else found is not None and found.startswith(fault)
