"""Check the content of canonical rows with one pandera schema; each failure names its row and its check."""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from configs.schema import CheckConfig

# {{name}}, {{ user.name }}, {% if ... %}; the tokenize stage looks for special tokens such as <|placeholder|>
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w.\[\]'\" |]*\}\}|\{%.{1,80}?%\}")
# A template in an answer about templates is what was asked for: it stands in a code block, between HTML tags, or in a
# template's own blocks, or the row says that it is about one.
_CODE = re.compile(r"```.*?(?:```|$)|`[^`\n]*`", re.DOTALL)
_MARKUP = re.compile(
    r"</[A-Za-z][\w:-]*\s*>|<[A-Za-z][\w:-]*(?:\s[^<>]*)?/>|\{%-?\s*end\w+|\{\{[#/]\s*\w|\s(?:v-|:|@|\*ng)[a-z-]+="
)
_ABOUT_TEMPLATES = re.compile(
    r"\b(?:templates?|templating|placeholders?|jinja2?|vue(?:\.?js)?|handlebars|mustache|angular(?:js)?|liquid|twig|django"
    r"|nunjucks|helm|ansible|dbt|cookiecutter|github actions|interpolat\w+)\b",
    re.IGNORECASE,
)
_REPLACEMENT_CHARACTER = "\ufffd"
# many good answers begin with a prompt of one word
_MIN_REPEATED_CHARACTERS = 12

_Check = Callable[[pd.DataFrame], pd.Series]


def check_rows(rows: pd.DataFrame, config: CheckConfig) -> pd.DataFrame:
    """Return one line for each check that a row fails: `index` (of `rows`), `check`, `column`, `reason`.

    `rows` has the canonical columns and a unique index.
    """
    checks = _checks(config)
    schema = pa.DataFrameSchema(checks=[pa.Check(check, name=name) for name, (check, _, _) in checks.items()])
    try:
        schema.validate(rows, lazy=True)
        return pd.DataFrame({"index": [], "check": [], "column": [], "reason": []})
    except SchemaErrors as errors:
        cases = errors.failure_cases
    assert not cases["index"].isna().any(), cases.to_string()
    failed = sorted({(int(index), str(check)) for index, check in zip(cases["index"], cases["check"], strict=True)})
    return pd.DataFrame(
        [{"index": i, "check": check, "column": checks[check][1], "reason": checks[check][2]} for i, check in failed]
    )


def _checks(config: CheckConfig) -> dict[str, tuple[_Check, str, str]]:
    """Return {name: (function that is True for good rows, column that a failure names, reason)}."""
    at_most = "" if config.max_characters is None else f", and at most {config.max_characters} characters in all"
    return {
        "placeholder": (
            _without_placeholder,
            "(row)",
            "holds a template placeholder such as {{name}}, outside of code",
        ),
        "replacement_character": (_without_replacement, "(row)", "holds U+FFFD, a character lost in decoding"),
        "length": (
            lambda rows: _within_bounds(rows, config),
            "(row)",
            f"needs at least {config.min_characters} characters of answer{at_most}",
        ),
        "repeats_prompt": (_does_not_repeat, "completion", "repeats the prompt"),
        "same_answers": (_answers_differ, "rejected", "is the same as the chosen answer"),
    }


def whole_texts(rows: pd.DataFrame) -> pd.Series:
    """Return the whole text of each row: its conversation or prompt, then its answers; without tool definitions."""
    prompts = rows.messages.where((rows.messages != "") & (rows.kind != "pair"), rows.prompt)
    answers = _whole_answers(rows.completion, rows.answer).where(rows.kind != "messages", "")
    return prompts + "\n" + answers + "\n" + _whole_answers(rows.rejected, rows.rejected_answer)


def _whole_answers(texts: pd.Series, turns: pd.Series) -> pd.Series:
    """Return answers as text, or as the JSON of a turn where they are more than text."""
    return texts.where(turns == "", turns)


def _without_placeholder(rows: pd.DataFrame) -> pd.Series:
    return ~whole_texts(rows).map(lambda text: ("{{" in text or "{%" in text) and _has_forgotten_placeholder(text))


def _has_forgotten_placeholder(text: str) -> bool:
    """Return whether a row of text holds a placeholder that is no part of code or of a text about templates."""
    prose = _CODE.sub(" ", text)
    return bool(_PLACEHOLDER.search(prose)) and not (_MARKUP.search(prose) or _ABOUT_TEMPLATES.search(prose))


def _without_replacement(rows: pd.DataFrame) -> pd.Series:
    return ~whole_texts(rows).map(lambda text: _REPLACEMENT_CHARACTER in text)


def _within_bounds(rows: pd.DataFrame, config: CheckConfig) -> pd.Series:
    # the last answer of a conversation may be a tool call, which has no text
    answers = _whole_answers(rows.completion, rows.answer)
    answer_lengths = answers.map(len).where(rows.kind != "messages", config.min_characters)
    is_long_enough = answer_lengths >= config.min_characters
    if config.max_characters is None:
        return is_long_enough
    # the two line breaks that `whole_texts` puts between its parts do not count
    return is_long_enough & (whole_texts(rows).map(len) - 2 <= config.max_characters)


def _does_not_repeat(rows: pd.DataFrame) -> pd.Series:
    def repeats(prompt: str, completion: str) -> bool:
        prompt, answer = prompt.strip(), completion.strip()
        return bool(prompt) and (
            answer == prompt or (len(prompt) >= _MIN_REPEATED_CHARACTERS and answer.startswith(prompt))
        )

    values = [not repeats(p, c) for p, c in zip(rows.prompt, rows.completion, strict=True)]
    return pd.Series(values, index=rows.index, dtype=bool)


def _answers_differ(rows: pd.DataFrame) -> pd.Series:
    chosen = _whole_answers(rows.completion, rows.answer)
    rejected = _whole_answers(rows.rejected, rows.rejected_answer)
    return (rows.kind != "preference") | (chosen.str.strip() != rejected.str.strip())
