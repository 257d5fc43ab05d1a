"""Read answers that were compared or judged, and the turns before them: preferences and rows with a label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.rows.turns import (
    Turn,
    check_not_printed,
    check_order,
    last_user_turn,
    ordered_turns,
    read_each_turn,
    read_turn,
    read_turns,
    same_turns,
    turns_in_text,
)
from tasks.rows.values import Fault, as_json, parse_json, read_text, type_name

Prompt = str | list[Turn]


def read_prompt(value: Any) -> Prompt:
    """Return a prompt: a text, or turns that end with the user's, or with a tool's result. Raises `Fault`."""
    value = _parsed(value)
    return read_turns(value, "user") if _has_turns(value) else read_text(value)


def read_answer(value: Any) -> list[Turn]:
    """Return an answer as turns that end with the assistant's: one turn, or the conversation that ends with it.

    A text that is the JSON of turns is read as these.

    Raises:
        Fault: it is no text, no turn and no list of turns, or another than the assistant speaks last.
    """
    value = _parsed(value)
    if value == []:
        raise Fault("is empty")
    if _has_turns(value):
        turns = read_each_turn(value) if len(value) > 1 else [read_turn(value[0])]
    else:
        turns = [read_turn(value) if isinstance(value, dict) else {"role": "assistant", "content": read_text(value)}]
    if turns[-1]["role"] != "assistant":
        raise Fault("is not a turn of the assistant")
    return turns


def _parsed(value: Any) -> Any:
    """Return the turns of a text that holds turns, and any other value as it is. Raises `Fault` for printed turns."""
    if not isinstance(value, str):
        return value
    check_not_printed(value)
    turns = turns_in_text(value)
    return value if turns is None else turns


def _has_turns(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(turn, dict) for turn in value)


def read_conversation(value: Any) -> list[Turn]:
    """Return a conversation whose last turn is one of two answers to compare. Raises `Fault`."""
    if isinstance(value, str) and not value.lstrip().startswith("[") and turns_in_text(value) is None:
        raise Fault(
            "is text, which does not show where the prompt ends; write lists of messages, or map a prompt column"
        )
    return read_turns(value, "assistant")


def read_label(value: Any) -> str:
    """Return `true` for a wanted answer, `false` for an unwanted one. Raises `Fault` for another value."""
    if isinstance(value, bool | int | float | str) and value in (0, 1, "true", "false", "True", "False"):
        return "true" if value in (1, "true", "True") else "false"
    raise Fault("is neither true nor false")


def read_openai_input(value: Any) -> dict[str, Any]:
    """Return `input` of OpenAI's preference form: {"messages": turns, "tools": as they stand}. Raises `Fault`."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            raise Fault("is text, not an object with messages") from None
    if not isinstance(value, dict):
        raise Fault(f"is {type_name(value)}, not an object with messages")
    try:
        return {"messages": read_turns(value.get("messages"), "user", can_mend=False), "tools": value.get("tools")}
    except Fault as fault:
        raise Fault(f"messages: {fault}") from None


def with_prompt(prompt: Prompt, answers: Mapping[str, list[Turn]]) -> tuple[list[Turn], dict[str, Turn]]:
    """Return (the turns before the answers, {column: answer}).

    An answer may be a whole conversation, whose turns before the answer repeat the prompt, or go on from it.

    Raises:
        Fault: an answer contradicts the prompt, or two answers follow on different turns.
    """
    histories = {column: _history(prompt, column, turns[:-1]) for column, turns in answers.items() if len(turns) > 1}
    turns_before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    for column, history in histories.items():
        first = next(iter(histories.values()))
        if not same_turns(history, first):
            raise Fault(f"does not share its earlier turns with {next(iter(histories))}", column)
        turns_before = ordered_turns(first)
    # an answer that goes on from the prompt leads the other one into a conversation that it never had
    goes_on = [column for column in histories if answers[column][0]["role"] not in ("system", "user")]
    for column in answers:
        if goes_on and column not in histories:
            raise Fault(f"does not share its earlier turns with {goes_on[0]}", column)
    for column, turns in answers.items():
        try:
            check_order([*turns_before, turns[-1]])
        except Fault as fault:
            raise Fault(str(fault), column) from None
    return turns_before, {column: turns[-1] for column, turns in answers.items()}


def _history(prompt: Prompt, column: str, earlier: list[Turn]) -> list[Turn]:
    if earlier[0]["role"] not in ("system", "user"):
        # the answer goes on from the prompt: a tool call, its result, and then what is compared
        return [*([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt), *earlier]
    if isinstance(prompt, str):
        asked = {turn["content"].strip() for turn in earlier if turn["role"] == "user"}
        if prompt.strip() not in asked:
            raise Fault(f"is none of the user's turns in {column}", "prompt")
        return earlier
    system, said = _split_system(prompt)
    other_system, others = _split_system(earlier)
    is_contradicted = bool(system and other_system and not same_turns(system, other_system))
    if is_contradicted or not same_turns(said, others[: len(said)]):
        raise Fault("does not begin with the turns of prompt", column)
    return [*(other_system or system), *others]


def _split_system(turns: list[Turn]) -> tuple[list[Turn], list[Turn]]:
    num_system = sum(turn["role"] == "system" for turn in turns[:1])
    return turns[:num_system], turns[num_system:]


def prompt_columns(prompt: Prompt, turns: list[Turn]) -> dict[str, str]:
    """Return `prompt` and `messages`; a single user turn that came as a text needs no messages."""
    if isinstance(prompt, str) and turns == [{"role": "user", "content": prompt}]:
        return {"prompt": prompt, "messages": ""}
    return {"prompt": last_user_turn(turns), "messages": as_json(turns)}


def answer_json(turn: Turn) -> str:
    """Return the JSON of an answer that is more than text, else an empty text."""
    kept = {key: value for key, value in turn.items() if key != "weight"}
    return as_json(kept) if "tool_calls" in kept or "reasoning_content" in kept else ""
