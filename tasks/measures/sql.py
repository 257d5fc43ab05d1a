"""The measure sql: queries of answers are run, and their results compared with those of the expected queries."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.printable import one_line
from configs.schema.measures import MeasureConfig
from tasks.measures.demo_database import DEMO_DATABASE, demo_database
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.rows import Failed, NotCounted, place_of, rows_scored

_PROGRAM = Path(__file__).with_name("sql_process.py")
_SIGNIFICANT_DIGITS = 9
_FENCE = re.compile(r"```(?:sql|sqlite)?[ \t]*\n(?P<query>.*?)\n?```", re.DOTALL | re.IGNORECASE)
# comments, texts, names in quotes, words, and any other character
_TOKEN = re.compile(
    r"--[^\n]*|/\*.*?(?:\*/|\Z)|'(?:[^']|'')*(?:'|\Z)|\"(?:[^\"]|\"\")*(?:\"|\Z)|`[^`]*`|\[[^\]]*\]|\w+|\S", re.DOTALL
)
Result = list[tuple[Any, ...]]


class QueryFault(Exception):
    """A query has no result; the message continues a sentence: `takes too long`."""


class Database:
    """Runs queries in a process of its own; one that the kernel ends is started again."""

    def __init__(self, setting: str, text: str) -> None:
        """Start the process with the SQL `text` of the database.

        Raises:
            ConfigError: a statement fails, or all take too long; `setting` names them in the error.
        """
        self._setting, self._text = setting, text
        self._results: dict[str, Result | str] = {}
        self._process = self._started()

    def result(self, query: str) -> Result:
        """Return the rows of a query; each column's values are compared by position, its name is not read.

        Raises:
            QueryFault: the query is not one, fails, does more than read tables, or takes more than its limits.
        """
        if query not in self._results:
            self._results[query] = self._run(query)
        result = self._results[query]
        if isinstance(result, str):
            raise QueryFault(result)
        return result

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _run(self, query: str) -> Result | str:
        reply = self._reply(query)
        if reply is None:
            reason = "takes too long" if self._ended_by(signal.SIGALRM) else "takes too much memory"
            self._process = self._started()
            return reason
        fault: str | None = reply.get("fault")
        return fault if fault is not None else [tuple(map(_by_value, row)) for row in reply["rows"]]

    def _started(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        reply = self._reply(self._text)
        if reply is None:
            what = "takes too long to build" if self._ended_by(signal.SIGALRM) else "takes too much memory to build"
            raise ConfigError(f"{self._setting} {what}; name a smaller one")
        if "fault" in reply:
            self.close()
            number = int(reply["statement"])
            raise ConfigError(
                f"{self._setting}: statement {number} failed: {one_line(reply['fault'])[:200]}\n"
                "write statements that make tables and rows in SQLite, with a semicolon after each; no file is read"
            )
        return self._process

    def _reply(self, text: str) -> dict[str, Any] | None:
        """Return what the process replies to a text; None where it has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(text) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self._process.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def _ended_by(self, number: int) -> bool:
        self.close()
        return self._process.returncode == -number


@contextmanager
def opened_database(config: MeasureConfig) -> Iterator[Database]:
    """Yield the database of a measure. Raises `ConfigError` as `Database`."""
    text = demo_database() if config.database.strip() == DEMO_DATABASE else config.database
    if text.strip().startswith("embedded:"):
        raise ConfigError(
            f"{place_of(config, 'database')}: {one_line(text.strip())[:80]} does not exist; "
            f"write {DEMO_DATABASE}, or SQL statements"
        )
    database = Database(place_of(config, "database"), text)
    try:
        yield database
    finally:
        database.close()


def sql_results(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the answer's query has the result of the expected one, else 0.

    The results are compared as bags of rows, or as lists where the expected query has ORDER BY at its outermost level.
    Columns are compared by position; 1 is 1.0, and floats by 9 digits. A query may stand in a Markdown fence. A query
    that is refused, fails or passes its limits (1 s, 10,000 rows, 4 MiB) counts as 0. A row whose expected query has
    no result does not count.

    Raises:
        ConfigError: the database cannot be built.
    """
    if not rows:
        return rows_scored(rows, lambda row: 0.0)
    with opened_database(config) as database:

        def value(row: AnsweredRow) -> float:
            try:
                expected = database.result(query_in(row.expected))
            except QueryFault as fault:
                raise NotCounted(f"the expected query {fault}") from None
            try:
                answered = database.result(query_in(row.answer))
            except QueryFault as fault:
                raise Failed(f"the query {fault}") from None
            if is_ordered(row.expected):
                return float(answered == expected)
            return float(Counter(answered) == Counter(expected))

        return rows_scored(rows, value)


def fitting_rows(config: MeasureConfig, expected: Sequence[str]) -> int:
    """Return how many expected queries have a result. Raises `ConfigError` as `sql_results`."""
    fitting = 0
    with opened_database(config) as database:
        for text in expected:
            try:
                database.result(query_in(text))
            except QueryFault:
                continue
            fitting += 1
    return fitting


def query_in(text: str) -> str:
    """Return the query of an answer: what stands in its Markdown fence, if it is one, without semicolons at the end."""
    text = text.strip()
    fence = _FENCE.fullmatch(text)
    return (fence["query"] if fence else text).strip().rstrip("; \t\r\n")


def is_ordered(query: str) -> bool:
    """Return whether a query has ORDER BY outside of all brackets: in a subquery or a window it orders no result."""
    depth, before = 0, ""
    for token in _TOKEN.findall(query_in(query)):
        if token in ("(", ")"):
            depth += 1 if token == "(" else -1
        elif depth == 0 and before == "ORDER" and token.upper() == "BY":
            return True
        if not token.startswith(("--", "/*")):
            before = token.upper()
    return False


def _by_value(value: Any) -> Any:
    if isinstance(value, dict):
        return "bytes", value["bytes"]
    if isinstance(value, float):
        rounded = float(f"{value:.{_SIGNIFICANT_DIGITS}g}")
        return int(value) if value.is_integer() else rounded
    return value
