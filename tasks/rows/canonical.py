"""Turn a row of any format into a canonical row. Each format has readers of its columns, and one of the whole row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from configs.schema import RowFormat
from tasks.rows import answers
from tasks.rows.formats import CANONICAL_COLUMNS, OPTIONAL_COLUMNS
from tasks.rows.tools import check_calls, read_calls, read_tools
from tasks.rows.turns import Turn, check_order, last_user_turn, read_turns, same_turns
from tasks.rows.values import Fault, as_json, is_missing, parse_json, read_optional_text, read_text, type_name

Values = dict[str, Any]
Reader = Callable[[Any], Any]

_TEXT_COLUMNS = CANONICAL_COLUMNS[1:]


def canonical_row(row_format: RowFormat, record: dict[str, Any]) -> dict[str, str]:
    """Return the canonical columns of a valid record, but for its id; all text, empty where unused.

    `kind` is `pair`, `messages`, `text`, `preference` or `kto`. For kind `messages`, column `messages` holds the JSON
    of the turns, and prompt and completion are the last user and assistant turns, for display. A preference has the
    turns before the answers in `messages`, and the chosen answer in `completion`. The `label` of a KTO row is `true` or
    `false`. `tools` is the JSON of OpenAI's list of tool definitions. `answer` and `rejected_answer` are the JSON of a
    preference's or KTO row's answers, as turns of the assistant, where these are more than text: a tool call, or
    reasoning. All tool arguments are objects.

    Raises:
        Fault: the record is not valid.
    """
    readers = {**COLUMN_READERS[row_format], **_optional_readers(row_format)}
    values = {column: read(record.get(column)) for column, read in readers.items()}
    return {**dict.fromkeys(_TEXT_COLUMNS, ""), **_ROW_READERS[row_format](values)}


def faults_of(row_format: str, record: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (column, reason) of each column that is not valid; if all are, that of the row as a whole."""
    faults: list[tuple[str, str]] = []
    values: Values = {}
    for column, read in {**COLUMN_READERS[row_format], **_optional_readers(row_format)}.items():
        try:
            values[column] = read(record.get(column))
        except Fault as fault:
            reason = "is missing" if is_missing(record.get(column)) else str(fault)
            faults.append((fault.column or column, reason))
    if faults:
        return faults
    try:
        _ROW_READERS[row_format](values)
    except Fault as fault:
        return [(fault.column or list(COLUMN_READERS[row_format])[-1], str(fault))]
    return []


def _read_history(value: Any) -> list[Turn]:
    """Return Alpaca's `history`, a list of [question, answer], as turns. Raises `Fault`."""
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError:
            raise Fault("is text, not a list of [question, answer]") from None
    if is_missing(value) or value in ("", []) or (isinstance(value, str) and not value.strip()):
        return []
    if not isinstance(value, list):
        raise Fault(f"is {type_name(value)}, not a list of [question, answer]")
    turns: list[Turn] = []
    for number, pair in enumerate(value, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Fault(f"entry {number} is not [question, answer]")
        for role, text in zip(("user", "assistant"), pair, strict=True):
            try:
                turns.append({"role": role, "content": read_text(text)})
            except Fault as fault:
                raise Fault(f"entry {number} {fault}") from None
    return turns


def _read_required_calls(value: Any) -> list[dict[str, Any]]:
    calls = read_calls(value)
    if not calls:
        raise Fault("is empty")
    return calls


_conversation = partial(read_turns, last="assistant")
_OPTIONAL_READERS: dict[str, Reader] = {
    "input": read_optional_text,
    "context": read_optional_text,
    "system": read_optional_text,
    "history": _read_history,
    "tools": read_tools,
    "reasoning_content": read_optional_text,
}
COLUMN_READERS: dict[str, dict[str, Reader]] = {
    "preference_sharegpt": {
        "conversations": partial(read_turns, last="user"),
        "chosen": answers.read_answer,
        "rejected": answers.read_answer,
    },
    "preference_openai": {
        "input": answers.read_openai_input,
        "preferred_output": answers.read_answer,
        "non_preferred_output": answers.read_answer,
    },
    "preference_chat": {
        "messages": partial(read_turns, last="user"),
        "chosen": answers.read_answer,
        "rejected": answers.read_answer,
    },
    "preference_messages": {
        "chosen_messages": answers.read_conversation,
        "rejected_messages": answers.read_conversation,
    },
    "preference": {
        "prompt": answers.read_prompt,
        "chosen": answers.read_answer,
        "rejected": answers.read_answer,
    },
    "preference_implicit": {"chosen": answers.read_conversation, "rejected": answers.read_conversation},
    "kto": {"prompt": answers.read_prompt, "completion": answers.read_answer, "label": answers.read_label},
    "kto_messages": {"messages": _conversation, "label": answers.read_label},
    "kto_sharegpt": {"conversations": _conversation, "label": answers.read_label},
    "kto_instruction": {"instruction": read_text, "output": read_text, "label": answers.read_label},
    "xlam": {"query": read_text, "tools": read_tools, "answers": _read_required_calls},
    "messages": {"messages": _conversation},
    "sharegpt": {"conversations": _conversation},
    "prompt_completion": {"prompt": answers.read_prompt, "completion": answers.read_answer},
    "instruction": {"instruction": read_text, "output": read_text},
    "text": {"text": read_text},
}
"""The readers of the columns that a format requires; each returns the value, or raises `Fault`."""


def _optional_readers(row_format: str) -> dict[str, Reader]:
    return {column: _OPTIONAL_READERS[column] for column in OPTIONAL_COLUMNS.get(row_format, ())}


def _chat(values: Values, turns: list[Turn], column: str) -> dict[str, str]:
    """Return the columns of a conversation that ends with an answer."""
    check_calls(turns, values["tools"], column)
    if all(turn.get("weight") == 0 for turn in turns if turn["role"] == "assistant"):
        raise Fault("has no answer that is trained: the weight of each is 0; take the row out", column)
    turns = _with_system(turns, values["system"], column)
    return {
        "kind": "messages",
        "prompt": last_user_turn(turns[:-1]),
        "completion": turns[-1]["content"],
        "messages": as_json(turns),
        **_tools(values),
    }


def _with_system(turns: list[Turn], system: str, column: str) -> list[Turn]:
    """Return turns that begin with `system`, where there is one."""
    if not system or (turns[0]["role"] == "system" and turns[0]["content"].strip() == system.strip()):
        return turns
    if turns[0]["role"] == "system":
        raise Fault(f"contradicts the system turn in {column}", "system")
    return [{"role": "system", "content": system}, *turns]


def _tools(values: Values) -> dict[str, str]:
    return {"tools": as_json(values["tools"]) if values["tools"] else ""}


def _messages(values: Values, column: str) -> dict[str, str]:
    return _chat(values, values[column], column)


def _instruction_turns(values: Values) -> list[Turn]:
    """Return the turns of an Alpaca row before its answer; one user turn where there is no history."""
    if values["input"] and values["context"] and values["input"].strip() != values["context"].strip():
        raise Fault("differs from input, which holds the context too; keep one of them", "context")
    context = values["input"] or values["context"]
    prompt = f"{values['instruction']}\n\n{context}" if context else values["instruction"]
    return [*values["history"], {"role": "user", "content": prompt}]


def _instruction(values: Values) -> dict[str, str]:
    turns = _instruction_turns(values)
    if len(turns) == 1 and not _needs_turns(values):
        return {"kind": "pair", "prompt": turns[0]["content"], "completion": values["output"]}
    answer = _with_reasoning({"role": "assistant", "content": values["output"]}, values)
    return _chat(values, [*turns, answer], "instruction")


def _needs_turns(values: Values) -> bool:
    """Return whether a row has more than a question and an answer as text."""
    return bool(values["system"] or values["tools"] or values["reasoning_content"])


def _with_reasoning(answer: Turn, values: Values) -> Turn:
    """Return the answer with the reasoning that stands in a column of its own."""
    reasoning = values["reasoning_content"]
    if reasoning and answer.get("reasoning_content", reasoning) != reasoning:
        raise Fault("differs from the reasoning in the answer's turn", "reasoning_content")
    return {**answer, "reasoning_content": reasoning} if reasoning else answer


def _prompt_completion(values: Values) -> dict[str, str]:
    prompt, completion = values["prompt"], values["completion"]
    is_text = isinstance(prompt, str) and completion == [{"role": "assistant", "content": completion[-1]["content"]}]
    if is_text and not _needs_turns(values):
        return {"kind": "pair", "prompt": prompt, "completion": completion[-1]["content"]}
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    # only the completion is trained, so no answer in the prompt is
    turns = [turn | ({"weight": 0} if turn["role"] == "assistant" else {}) for turn in turns]
    turns = [*turns, *completion[:-1], _with_reasoning(completion[-1], values)]
    try:
        check_order(turns)
    except Fault as fault:
        raise Fault(f"does not follow on prompt: {fault}", "completion") from None
    return _chat(values, turns, "completion")


def _xlam(values: Values) -> dict[str, str]:
    if not values["tools"]:
        raise Fault("is empty", "tools")
    call = {"role": "assistant", "content": "", "tool_calls": values["answers"]}
    return _chat(values, [{"role": "user", "content": values["query"]}, call], "answers")


def _preference(values: Values, prompt: answers.Prompt, chosen: str, rejected: str) -> dict[str, str]:
    turns, found = answers.with_prompt(prompt, {column: values[column] for column in (chosen, rejected)})
    return {
        "kind": "preference",
        **_prompt_of_answers(values, prompt, turns, found),
        "completion": found[chosen]["content"],
        "rejected": found[rejected]["content"],
        "answer": answers.answer_json(found[chosen]),
        "rejected_answer": answers.answer_json(found[rejected]),
    }


def _judged(values: Values, prompt: answers.Prompt, answer: list[Turn], column: str) -> dict[str, str]:
    turns, found = answers.with_prompt(prompt, {column: answer})
    return {
        "kind": "kto",
        **_prompt_of_answers(values, prompt, turns, found),
        "completion": found[column]["content"],
        "answer": answers.answer_json(found[column]),
        "label": values["label"],
    }


def _prompt_of_answers(
    values: Values, prompt: answers.Prompt, turns: list[Turn], found: dict[str, Turn]
) -> dict[str, str]:
    for column, answer in found.items():
        if answer.get("weight") == 0:
            reason = "has weight 0, but answers that are compared or judged are all learned from; take the row out"
            raise Fault(reason, column)
        check_calls([*turns, answer], values["tools"], column)
    # the first column of every format holds the turns before the answer
    turns = _with_system(turns, values["system"], next(iter(values)))
    return {**answers.prompt_columns(prompt, turns), **_tools(values)}


def _shared_prompt(values: Values, chosen: str, rejected: str) -> dict[str, str]:
    """Return the columns of two whole conversations, whose earlier turns must be the same."""
    if not same_turns(values[chosen][:-1], values[rejected][:-1]):
        raise Fault(f"does not share its earlier turns with {chosen}", rejected)
    return _preference(values, values[chosen][:-1], chosen, rejected)


def _openai_preference(values: Values) -> dict[str, str]:
    prompt = values["input"]
    try:
        values = {**values, "tools": read_tools(prompt["tools"])}
    except Fault as fault:
        raise Fault(f"tools: {fault}", "input") from None
    return _preference(values, prompt["messages"], "preferred_output", "non_preferred_output")


def _judged_conversation(values: Values, column: str) -> dict[str, str]:
    return _judged(values, values[column][:-1], values[column][-1:], column)


def _judged_instruction(values: Values) -> dict[str, str]:
    turns = _instruction_turns(values)
    prompt = turns[0]["content"] if len(turns) == 1 else turns
    return _judged(values, prompt, [{"role": "assistant", "content": values["output"]}], "output")


_ROW_READERS: dict[str, Callable[[Values], dict[str, str]]] = {
    "preference_sharegpt": lambda values: _preference(values, values["conversations"], "chosen", "rejected"),
    "preference_openai": _openai_preference,
    "preference_chat": lambda values: _preference(values, values["messages"], "chosen", "rejected"),
    "preference_messages": partial(_shared_prompt, chosen="chosen_messages", rejected="rejected_messages"),
    "preference": lambda values: _preference(values, values["prompt"], "chosen", "rejected"),
    "preference_implicit": partial(_shared_prompt, chosen="chosen", rejected="rejected"),
    "kto": lambda values: _judged(values, values["prompt"], values["completion"], "completion"),
    "kto_messages": partial(_judged_conversation, column="messages"),
    "kto_sharegpt": partial(_judged_conversation, column="conversations"),
    "kto_instruction": _judged_instruction,
    "xlam": _xlam,
    "messages": partial(_messages, column="messages"),
    "sharegpt": partial(_messages, column="conversations"),
    "prompt_completion": _prompt_completion,
    "instruction": _instruction,
    "text": lambda values: {"kind": "text", "completion": values["text"]},
}
