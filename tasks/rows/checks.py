"""Checks of what rows say, as one pandera schema over canonical rows: each failure names its row and its check."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from configs.schema import CheckConfig

# {{name}}, {{ user.name }}, {% if ... %}, <|placeholder|>-like special tokens are the tokenize stage's business
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w.\[\]'\" |]*\}\}|\{%.{1,80}?%\}")
_REPLACEMENT = "\ufffd"
# a one-word prompt is found in many a good answer
_REPEATED_PROMPT_CHARACTERS = 12

_Check = Callable[[pd.DataFrame], pd.Series]


def check_rows(rows: pd.DataFrame, config: CheckConfig) -> pd.DataFrame:
    """Return one line for each (row, check) that failed: `index` of `rows`, `check`, `column`, `reason`.

    `rows` has the canonical columns; the index is unique.
    """
    checks = _checks(config)
    schema = pa.DataFrameSchema(checks=[pa.Check(check, name=name) for name, (check, _, _) in checks.items()])
    try:
        schema.validate(rows, lazy=True)
        return pd.DataFrame({"index": [], "check": [], "column": [], "reason": []})
    except SchemaErrors as errors:
        cases = errors.failure_cases
    assert not cases["index"].isna().any(), cases.to_string()
    found = sorted({(int(index), str(check)) for index, check in zip(cases["index"], cases["check"], strict=True)})
    return pd.DataFrame(
        [{"index": i, "check": check, "column": checks[check][1], "reason": checks[check][2]} for i, check in found]
    )


def _checks(config: CheckConfig) -> dict[str, tuple[_Check, str, str]]:
    """Return {name: (check that is True for good rows, column to name, reason)}."""
    longest = "any number of" if config.max_characters is None else f"at most {config.max_characters}"
    return {
        "placeholder": (_without_placeholder, "(row)", "holds a template placeholder such as {{name}}"),
        "replacement_character": (_without_replacement, "(row)", "holds U+FFFD, a character lost in decoding"),
        "length": (
            lambda rows: _within_bounds(rows, config),
            "(row)",
            f"is not of {config.min_characters} or more characters of answer, {longest} in all",
        ),
        "repeats_prompt": (_does_not_repeat, "completion", "repeats the prompt"),
        "same_answers": (_answers_differ, "rejected", "is the same as the chosen answer"),
    }


def whole_texts(rows: pd.DataFrame) -> pd.Series:
    """Return all that a row says, as one text: its conversation or prompt, and its answers."""
    asked = rows.messages.where((rows.messages != "") & (rows.kind != "pair"), rows.prompt)
    answered = rows.completion.where(rows.kind != "messages", "")
    return asked + "\n" + answered + "\n" + rows.rejected


def _without_placeholder(rows: pd.DataFrame) -> pd.Series:
    return ~whole_texts(rows).map(lambda text: ("{{" in text or "{%" in text) and bool(_PLACEHOLDER.search(text)))


def _without_replacement(rows: pd.DataFrame) -> pd.Series:
    return ~whole_texts(rows).map(lambda text: _REPLACEMENT in text)


def _within_bounds(rows: pd.DataFrame, config: CheckConfig) -> pd.Series:
    # an assistant's tool call has no text
    answers = rows.completion.map(len).where(rows.kind != "messages", config.min_characters)
    enough = answers >= config.min_characters
    if config.max_characters is None:
        return enough
    # less the two line breaks that `whole_texts` puts between its parts
    return enough & (whole_texts(rows).map(len) - 2 <= config.max_characters)


def _does_not_repeat(rows: pd.DataFrame) -> pd.Series:
    def repeats(prompt: str, completion: str) -> bool:
        asked, answer = prompt.strip(), completion.strip()
        return bool(asked) and (
            answer == asked or (len(asked) >= _REPEATED_PROMPT_CHARACTERS and answer.startswith(asked))
        )

    values = [not repeats(p, c) for p, c in zip(rows.prompt, rows.completion, strict=True)]
    return pd.Series(values, index=rows.index, dtype=bool)


def _answers_differ(rows: pd.DataFrame) -> pd.Series:
    return (rows.kind != "preference") | (rows.completion.str.strip() != rows.rejected.str.strip())
