"""What people read cannot be forged: the one place through which every text from outside goes before it is shown.

Names of files, keys, answers, and messages of libraries and servers may hold characters that move a terminal's cursor,
begin a line that looks like one of ours, or show letters in another order than they stand in. Such characters are shown
as `\\x1b` or `\\u202e`. A backslash stays as it is: the text is for reading, and is not read back. Data are not print:
tables of rows, JSON Lines and the quarantine keep the true text.

Text of every language stays as it is. Joiners (U+200B to U+200D, U+034F, U+180E) are let through between two visible
characters beyond Latin, where Khmer and Mongolian words and emoji need them; those of Arabic and Indic scripts also
beside one letter, at the end of a word or before a Latin one. Between Latin letters they only hide. The fillers and
invisible vowels of Korean, Khmer and Mongolian are let through within their own script. A variation selector is let
through alone, after a visible character; the tags of a flag after the flag that they belong to. Marks of direction
(U+200E, U+200F, U+061C) are always shown: letters have their direction without them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import yaml

_SELECTORS = r"\ufe00-\ufe0f\U000e0100-\U000e01ef"
_JOINERS = r"\u034f\u180e\u200b-\u200d"
# C0, C1, DEL, soft hyphen, directions, separators, invisible operators, fillers, surrogates, annotations, tags
_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f\xad\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# letters of Latin: between them joiners only hide
_LATIN = r"\x00-\u024f\u1e00-\u1eff\uff21-\uff3a\uff41-\uff5a"
_VISIBLE = rf"[^{_LATIN}{_HIDDEN}{_JOINERS}]"
# Arabic, Syriac, N'Ko and the Indic scripts up to Sinhala, with their later blocks
_JOINING = r"[\u0620-\u0669\u066e-\u06d5\u06ee-\u07ff\u0840-\u0dff\ua8e0-\ua8ff\ufb50-\ufdff\ufe70-\ufefc]"
_OWN = (
    r"(?<=[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff])[\u115f\u1160]|[\u115f\u1160](?=[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff])"
    r"|(?<=[\u1780-\u17dd])[\u17b4\u17b5]|(?<=[\u1807\u1820-\u18aa])[\u180b-\u180d\u180f]"
)
_OF_ONE_SCRIPT = r"\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f"
_FLAG = r"\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"
_CHARACTERS = re.compile(
    rf"(?P<kept>{_FLAG}|(?<={_VISIBLE})[{_JOINERS}](?={_VISIBLE})"
    rf"|(?<={_JOINING})[\u200c\u200d]|(?<=[^\s{_HIDDEN}{_JOINERS}])[\u200c\u200d](?={_JOINING})|{_OWN}"
    rf"|(?<=[^\x20\xa0{_HIDDEN}{_JOINERS}{_SELECTORS}])[{_SELECTORS}])|[{_HIDDEN}{_JOINERS}{_SELECTORS}{_OF_ONE_SCRIPT}]"
)
# what spreadsheets take for the beginning of a formula; full-width forms are read as the ASCII ones by some
_FORMULA = re.compile(r"[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?( ?%)?|[+-]", re.IGNORECASE)


def printable(text: str) -> str:
    """Return `text` for people, with its line breaks and tabs; every other character that hides is shown as an escape.

    For texts of several lines: answers, files, and messages whose own parts went through `one_line`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "\n".join(
        "\t".join(_CHARACTERS.sub(_shown, part) for part in line.split("\t"))
        for line in text.replace("\r\n", "\n").split("\n")
    )


def one_line(text: object) -> str:
    """Return `str(text)` for people on one line, for a name or a value within a message."""
    shown = str(text)
    return shown if shown.isascii() and shown.isprintable() else _CHARACTERS.sub(_shown, shown)


def joined_lines(message: object) -> str:
    """Return the lines of one of our own messages as one line, with semicolons between them."""
    return "; ".join(one_line(line) for line in str(message).splitlines())


def table_cell(text: str) -> str:
    """Return `printable(text)` for a table that may be copied into a spreadsheet, or be written as CSV.

    A text that a spreadsheet would compute, since it begins with = + - @ or a tab, gets an apostrophe before it, as
    OWASP advises (https://owasp.org/www-community/attacks/CSV_Injection). Numbers stay as they are.
    """
    shown = printable(text)
    is_formula = _FORMULA.match(text.lstrip(" \n")) or _FORMULA.match(text)
    return f"'{shown}" if is_formula and not _NUMBER.fullmatch(text.strip()) else shown


def yaml_text(values: Mapping[str, Any]) -> str:
    """Return a mapping as YAML that reads back as the same values: with a character that hides in it, all in ASCII."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return text if printable(text) == text else yaml.safe_dump(values, sort_keys=False)


def print_line(line: str = "", stream: TextIO | None = None) -> None:
    """Print one line at once: line breaks within it are escaped, so that no name begins a line of its own."""
    print_text(one_line(line), stream)


def print_text(text: str, stream: TextIO | None = None, end: str = "\n") -> None:
    """Print a text of several lines at once; its own parts went through `one_line` or `table_cell`."""
    out = stream or sys.stdout
    shown = printable(text) + end
    # a terminal or a log that is not UTF-8 must not end the run
    encoding = getattr(out, "encoding", None) or "utf-8"
    out.write(shown.encode(encoding, "backslashreplace").decode(encoding))
    out.flush()


def make_printable(error: BaseException) -> None:
    """Make the texts of an error that nobody foresaw, and of those that led to it, printable: its trace is printed."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is earlier for earlier in seen):
        seen.append(cause)
        shown = tuple(printable(part) if isinstance(part, str) else part for part in cause.args)
        if shown != cause.args:
            cause.args = shown
        if isinstance(cause, OSError) and isinstance(cause.filename, str):
            cause.filename = one_line(cause.filename)
        cause = cause.__cause__ or cause.__context__


def _shown(found: re.Match[str]) -> str:
    return found[0] if found["kept"] else ascii(found[0])[1:-1]
