"""Names of columns and keys that are known to carry meaning, in any case and with the words that data sets use."""

from __future__ import annotations

import re
from collections.abc import Mapping

MEDIA = frozenset({"images", "videos", "audios", "image", "video", "audio"})
_TOOLS = frozenset(
    {"tools", "functions", "function_call", "function_calls", "tool_call", "tool_calls", "available_tools", "apis"}
    | {"available_functions", "tool_definitions", "tool_schemas", "tool_choice", "chat_template_kwargs"}
)
_SYSTEMS = frozenset(
    {"system", "systems", "sys", "sys_prompt", "system_prompt", "system_message", "system_instruction"}
    | {"system_instructions", "system_text"}
)
_WEIGHTS = frozenset(
    {"weight", "weights", "loss_weight", "loss_mask", "loss_multiplier", "mask", "train", "trainable", "kto_tag"}
    | {"train_on_turn", "train_detail"}
)
_REASONING = frozenset({"think", "thinking", "thought", "thoughts", "reasoning", "rationale", "rationales", "cot"})
# with one of these words a name is about the reasoning, and does not hold it
_ABOUT = frozenset(
    {"count", "num", "number", "n", "tokens", "length", "len", "score", "time", "ms", "seconds", "id", "type", "level"}
    | {"effort", "mode", "language", "lang", "model", "budget", "is", "has", "enable", "enabled", "rating", "quality"}
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# names that carry meaning beside the columns of these formats only
_BESIDE: Mapping[str, tuple[str, ...]] = {
    "context": ("instruction", "prompt_completion"),
    "input": ("prompt_completion", "preference", "kto"),
    "label": ("messages", "sharegpt", "instruction"),
    "instructions": ("messages", "sharegpt", "prompt_completion"),
    "history": ("messages", "sharegpt", "prompt_completion", "preference", "kto"),
    # rows that are single turns of conversations
    "role": ("text",),
    "parent_id": ("text",),
}
_READ_AS: Mapping[str, frozenset[str]] = {
    "system": _SYSTEMS,
    "tools": frozenset({"functions", "available_tools", "available_functions", "tool_definitions", "apis"}),
    "label": frozenset({"kto_tag"}),
}


def carries_meaning(name: str, place: str, row_format: str) -> bool:
    """Return whether a column, or a key of a turn (`place` turn), is known to carry meaning beside a format's own."""
    lower = name.lower().rpartition(".")[2]
    if lower in MEDIA | _TOOLS | _WEIGHTS or is_reasoning(lower if "." in name else name):
        return True
    if place == "turn":
        return lower == "loss"
    return lower in _SYSTEMS or row_format in _BESIDE.get(lower, ())


def is_reasoning(name: str) -> bool:
    """Return whether a name says that it holds reasoning, such as `deepseek_reasoning` or `Complex_CoT`."""
    if name.lower() in ("cot", "chain_of_thought") or name.endswith(("CoT", "_cot", "COT")):
        return True
    words = {word.lower() for word in _WORDS.findall(name)}
    return bool(words & _REASONING) and not words & _ABOUT


def read_as(name: str) -> str | None:
    """Return the field as which a column with such a name may be read, by `columns`; None if no field is known."""
    if is_reasoning(name):
        return "reasoning_content"
    return next((field for field, names in _READ_AS.items() if name.lower() in names), None)
