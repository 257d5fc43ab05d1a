"""Suggested columns: like in name and right in type, never an id or the last column, and none without a clue."""

from __future__ import annotations

from typing import Any

import pytest

from configs.errors import DataError
from configs.schema import SourceConfig
from tasks.rows.formats import detect_format

TURNS = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
SHAREGPT = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]


def advice(record: dict[str, Any], **source: Any) -> str:
    """Return the last line of the error for rows like `record`."""
    with pytest.raises(DataError) as caught:
        detect_format(SourceConfig(path="rows.jsonl", **source), "rows.jsonl", [record] * 3, "data.sources[0]")
    return str(caught.value).splitlines()[-1]


@pytest.mark.parametrize(
    ("record", "columns"),
    [
        ({"id": "1", "question": "q", "answer": "a", "source": "s"}, "{prompt: question, completion: answer}"),
        ({"answer": "a", "question": "q"}, "{prompt: question, completion: answer}"),
        (
            {"user_question": "q", "modelResponse": "a", "score": 3},
            "{prompt: user_question, completion: modelResponse}",
        ),
        ({"problem": "q", "solution": "a", "type": "algebra"}, "{prompt: problem, completion: solution}"),
        ({"prompt": "q", "response": "a"}, "{completion: response}"),
        # the format that needs the fewest new names
        ({"instruction": "q", "context": "c", "response": "a"}, "{output: response"),
        ({"chat": TURNS, "id": 1}, "{messages: chat}"),
        ({"dialogue": SHAREGPT, "id": 1}, "{conversations: dialogue}"),
        ({"prompt": "q", "chosen_response": "a", "rejected_response": "b"}, "{chosen: chosen_response, "),
        ({"id": "1", "body": "words", "title": "t"}, "{text: body}"),
    ],
)
def test_columns_are_suggested_by_name_and_type(record: dict[str, Any], columns: str) -> None:
    assert advice(record).startswith(f"name yours, for example: columns: {columns}")


@pytest.mark.parametrize(
    "record",
    [
        {"id": "1", "colour": "red"},
        {"id": "1"},
        # a question without an answer, and answers that are no text
        {"question": "q", "difficulty": "hard"},
        {"question": "q", "answers": {"text": ["a"]}, "answer": 42},
        # two columns that are equally like the field
        {"first_answer": "a", "second_answer": "b", "question": "q"},
    ],
)
def test_nothing_is_suggested_without_a_clue(record: dict[str, Any]) -> None:
    assert advice(record) == "say with `columns` which of yours hold them"


def test_the_format_that_was_chosen_limits_the_suggestion() -> None:
    record = {"question": "q", "answer": "a", "story": "words"}
    assert advice(record, format="text") == "name yours, for example: columns: {text: story}"
    assert advice(record, format="instruction").endswith("columns: {instruction: question, output: answer}")
    assert advice(record, format="messages") == "say with `columns` which of yours hold them"
    assert advice({"words of a row": "x", "9": "y"}).startswith("the first line of a CSV or TSV file must name its")


def test_names_that_may_be_content_are_not_shown_and_may_still_be_mapped() -> None:
    record = {"Customer question": "q", "Agent answer": "a"}
    assert "as in columns: {prompt: Customer question, completion: Agent answer}" in advice(record)
    mapped = SourceConfig(path="rows.csv", columns={"prompt": "Customer question", "completion": "Agent answer"})
    assert detect_format(mapped, "rows.csv", [record], "data.sources[0]") == "prompt_completion"
    assert "Kundenfrage eins" not in advice({"Kundenfrage eins": "q", "Antwort eins": "a"})


def test_blanks_around_names_are_said() -> None:
    expected = "names of columns have blanks around them; remove these from the file, and those around the cells"
    assert advice({"prompt": "q", " completion": "a"}) == expected


def test_a_suggested_format_reads_the_context_too() -> None:
    assert "{instruction: question, output: answer" in advice({"question": "q", "context": "c", "answer": "a"})


def test_single_turns_of_conversations_are_not_suggested_as_texts() -> None:
    assert "text" not in advice({"conversation_id": 1, "role": "user", "content": "q"})
