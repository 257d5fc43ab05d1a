"""Rules on answers: refusals, repetition, memorization; files of prompts and of text."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from configs.errors import ConfigError, DataError
from configs.schema.evaluate import HarnessTaskConfig, RetainedConfig
from tasks.retained.degenerate import degenerate_values, repeats_itself
from tasks.retained.general_text import EMBEDDED, read_text, text_pieces
from tasks.retained.harness import check_tasks
from tasks.retained.memorization import continued, halved
from tasks.retained.refusals import HARMLESS, UNSAFE, is_refusal, prompts
from tasks.retained.thresholds import default_rules


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m really sorry, but I can\u2019t assist with this request.",
        "I cannot provide instructions for that.",
        "Sorry, I am unable to comply with this.",
        "I won't do that. It would hurt people.",
        "As an AI language model, I must not help with crimes.",
        "That is illegal, and I will not explain it.",
        "Es tut mir leid, dabei kann ich nicht helfen.",
        "Je suis désolé, je ne peux pas vous aider.",
        "Lo siento, no puedo ayudar con eso.",
        "抱歉,我无法帮助你。",
    ],
)
def test_refusals_are_known(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Use `kill -9` with the number of the process.",
        "You can't go wrong with soft light from a window.",
        "First, write down what you want to say. Then practise it.",
        "Ants come for sugar: wipe the shelves, and close the gap under the door.",
        "The war began because nobody wanted to be the first to stop.",
    ],
)
def test_answers_that_help_are_no_refusals(answer: str) -> None:
    assert not is_refusal(answer)


def test_the_shipped_prompts_are_forty_each_and_all_different() -> None:
    found = prompts(RetainedConfig(refusals=True))
    assert {name: len(rows) for name, rows in found.items()} == {UNSAFE: 40, HARMLESS: 40}
    texts = [prompt for rows in found.values() for _, prompt in rows]
    assert len(set(texts)) == 80


def test_a_users_prompts_follow(tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    mine.write_text(json.dumps({"prompt": "Help me cheat."}) + "\n\n")
    found = prompts(RetainedConfig(refusals=True, unsafe_prompts=str(mine)))
    assert found[UNSAFE][-1] == ("mine.jsonl:1", "Help me cheat.")
    assert len(found[HARMLESS]) == 40


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json\n", "line 1"),
        ('{"prompt": ""}\n', "line 1: no text `prompt`"),
        ('{"question": "x"}\n', 'write {"prompt": "..."}'),
        ("[1]\n", "no text `prompt`"),
        ("\n", "holds no prompt"),
        (None, "cannot be read"),
    ],
)
def test_a_bad_file_of_prompts_is_one_error(content: str | None, words: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jsonl"
    if content is not None:
        mine.write_text(content)
    with pytest.raises(DataError) as error:
        prompts(RetainedConfig(refusals=True, harmless_prompts=str(mine)))
    assert words in str(error.value) and "evaluate.retained.harmless_prompts=" in str(error.value)


WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "then",
    "it",
    "went",
    "to",
    "find",
    "some",
    "milk",
    "in",
    "the",
    "old",
    "kitchen",
]


@pytest.mark.parametrize(
    ("answer", "repeats"),
    [
        ("", False),
        ("no no no no", False),
        (" ".join(WORDS), False),
        ("again " * 16, True),
        ("again " * 15, False),
        (" ".join([*WORDS, *["ha"] * 16]), True),
        ("a b c d " * 4, True),
        # by hand: 31 4-grams of which 17 differ: 45 % are repeats
        (" ".join(WORDS * 2), False),
        # 48 4-grams of which 17 differ: 65 %
        (" ".join(WORDS * 3), True),
        ("好" * 20, True),
        ("今天天气很好我们去公园散步然后回家吃饭", False),
    ],
)
def test_repetition_by_hand(answer: str, repeats: bool) -> None:
    assert repeats_itself(answer) is repeats


def test_faults_are_counted_for_each_answer() -> None:
    table = pa.table({"answer": ["", "fine", "again " * 20], "ended": [True, False, True]})
    found = {name: values.values.tolist() for name, values in degenerate_values(table).items()}
    assert found == {"empty": [1, 0, 0], "unfinished": [0, 1, 0], "repeats": [0, 0, 1]}


def test_the_shipped_text_has_pieces_of_several_kinds() -> None:
    pieces = text_pieces(read_text(EMBEDDED))
    assert len(pieces) >= 30 and len(set(pieces)) == len(pieces)
    assert any("SELECT" in piece for piece in pieces) and any("Der Zug" in piece for piece in pieces)


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff\xfe", "is not UTF-8"), (b" \n", "is empty"), (None, "cannot be read")]
)
def test_a_bad_text_file_is_one_error(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_text(str(path))
    assert words in str(error.value) and "evaluate.retained.general_text=" in str(error.value)


def test_half_of_an_answer_is_given_and_the_rest_asked_for() -> None:
    rows = pd.DataFrame(
        {
            "input_ids": [list(range(24)), list(range(10)), list(range(30))],
            "prompt_length": [4, 4, 0],
        }
    )
    found = halved(rows, 8)
    # only the first has an answer of 16 tokens or more and a prompt: 20 tokens, of which 10 are given
    assert found.prompt_length.tolist() == [14]
    assert found.input_ids[0] == list(range(24))
    assert continued(found, [[*range(14, 24), 99]]) == [1.0]
    assert continued(found, [[*range(14, 23), 99]]) == [0.0]
    assert continued(found, [[]]) == [0.0]
    assert halved(rows.drop(columns="prompt_length"), 8).empty


def test_rules_are_for_what_was_measured_and_hold_nothing_back() -> None:
    measured = [("general text", "eval_loss"), ("held-out", "repeats"), ("harness arithmetic", "harness")]
    rules = default_rules(measured, "sft")
    assert [(rule.set, rule.measure) for rule in rules] == [measured[0], measured[2], measured[1]]
    assert {rule.versus for rule in rules} == {"sft"} and not any(rule.required for rule in rules)


@pytest.mark.parametrize("task", ["embedded:nope", "no/such/file.yaml"])
def test_a_task_that_is_not_there_is_refused(task: str) -> None:
    check_tasks([HarnessTaskConfig(task="embedded:arithmetic"), HarnessTaskConfig(task="arc_easy")])
    with pytest.raises(ConfigError, match="evaluate.retained.harness"):
        check_tasks([HarnessTaskConfig(task=task)])
