"""A process that runs queries on a database in memory, with limits; run as a program, by `tasks.measures.sql`.

A query of a model may be anything. What it may name is decided by an authorizer of SQLite: it reads tables and calls
functions of a list, and does nothing else, so that no file is opened and no row changes. SQLite ends it after a second.
But preparing a statement can neither be ended nor be bounded in memory from within, so this is a process of its own,
with a limit of memory, which the kernel ends when an alarm that nobody handles goes off. It imports nothing of the
project, so that it begins fast, and where Python has modules isolated (`-I`).

Lines of JSON go in and come out: first the SQL text of the database, then one query each.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from typing import Any

QUERY_SECONDS = 1.0
KILLED_AFTER_SECONDS = 2.0
"""A query that SQLite does not end, such as one that takes long to prepare, is ended with its process."""
DATABASE_SECONDS = 20.0
MEMORY_BYTES = 2**29
MOST_ROWS = 10_000
MOST_BYTES = 2**22
"""Of a result, counted as characters and 8 for a number."""
_MOST_PAGES = 2**14
_STEPS = 1000
# what a user may do to build a database: no file, no extension, no setting but those that `.dump` of sqlite3 writes
_BUILDING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
    sqlite3.SQLITE_DELETE,
    sqlite3.SQLITE_CREATE_TABLE,
    sqlite3.SQLITE_CREATE_INDEX,
    sqlite3.SQLITE_CREATE_VIEW,
    sqlite3.SQLITE_CREATE_TRIGGER,
    sqlite3.SQLITE_DROP_TABLE,
    sqlite3.SQLITE_DROP_INDEX,
    sqlite3.SQLITE_DROP_VIEW,
    sqlite3.SQLITE_DROP_TRIGGER,
    sqlite3.SQLITE_ALTER_TABLE,
    sqlite3.SQLITE_REINDEX,
    sqlite3.SQLITE_TRANSACTION,
    sqlite3.SQLITE_SAVEPOINT,
}
_QUERYING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
_SETTINGS = {"foreign_keys"}
# those whose result depends on the arguments alone, and none that makes large texts at will
_FUNCTIONS = (
    "abs avg ceil ceiling char coalesce concat concat_ws count cume_dist current_date current_time current_timestamp "
    "date datetime dense_rank exp first_value floor format glob group_concat hex ifnull iif instr json json_array "
    "json_array_length json_extract json_group_array json_group_object json_object json_type json_valid "
    "julianday lag last_value lead length like likelihood likely ln log log10 log2 lower ltrim max min mod nth_value "
    "ntile nullif percent_rank pi pow power printf quote rank replace round row_number rtrim sign sqrt strftime "
    "string_agg substr substring sum time total trim trunc typeof unicode unixepoch unlikely upper -> ->>"
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 30,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
Answer = dict[str, Any]


def main() -> None:
    """Build the database, then answer one query a line until the input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    database = sqlite3.connect(":memory:", isolation_level=None)
    with _alarm(DATABASE_SECONDS + KILLED_AFTER_SECONDS):
        _reply(_build(database, json.loads(sys.stdin.readline())))
    _protect(database)
    for line in sys.stdin:
        query = json.loads(line)
        with _alarm(KILLED_AFTER_SECONDS):
            answer = _result(database, query)
        _reply(answer)


def _build(database: sqlite3.Connection, text: str) -> Answer:
    """Run the statements of `text`; on a fault return its statement's number and SQLite's words."""
    for setting in (f"max_page_count={_MOST_PAGES}", "cache_size=-2000", "temp_store=FILE", "trusted_schema=OFF"):
        database.execute(f"PRAGMA {setting}")
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.set_authorizer(_may_build)
    _limit_time(database, DATABASE_SECONDS)
    number = 0
    for number, statement in enumerate(_statements(text), 1):
        try:
            database.execute(statement)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError) as error:
            return {"statement": number, "fault": _fault(error)}
    if database.in_transaction:
        database.execute("COMMIT")
    return {"statements": number}


def _statements(text: str) -> Iterator[str]:
    """Yield the statements of an SQL text. SQLite tells where one is complete: a semicolon may stand in a text."""
    waiting = ""
    for part in text.split(";"):
        waiting += part + ";"
        if sqlite3.complete_statement(waiting):
            if waiting.strip("; \t\r\n"):
                yield waiting
            waiting = ""
    if waiting.strip("; \t\r\n"):
        yield waiting


def _protect(database: sqlite3.Connection) -> None:
    database.set_authorizer(None)
    database.execute("PRAGMA query_only=ON")
    for limit, most in _LIMITS.items():
        database.setlimit(limit, most)
    database.set_authorizer(_may_query)


def _result(database: sqlite3.Connection, query: str) -> Answer:
    """Return the rows of a query, or the reason why there are none."""
    _limit_time(database, QUERY_SECONDS)
    rows: list[list[Any]] = []
    size = 0
    try:
        cursor = database.execute(query)
        for row in cursor:
            rows.append([{"bytes": value.hex()} if isinstance(value, bytes) else value for value in row])
            size += sum(len(value) if isinstance(value, str | bytes) else 8 for value in row)
            if len(rows) > MOST_ROWS or size > MOST_BYTES:
                cursor.close()
                return {"fault": "has a result that is too large"}
    except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError) as error:
        return {"fault": _reason(error)}
    if cursor.description is None:
        return {"fault": "is not a query"}
    return {"rows": rows}


def _reason(error: Exception) -> str:
    """Return one of a few reasons, so that equal ones can be counted; SQLite's own words name what the query names."""
    message = str(error)
    if isinstance(error, MemoryError) or "out of memory" in message:
        return "takes too much memory"
    if "interrupted" in message:
        return "takes too long"
    if "not authorized" in message or "prohibited" in message or "readonly" in message:
        return "does more than read tables"
    if "one statement" in message:
        return "is more than one statement"
    if any(words in message for words in ("too big", "too large", "too many", "too long", "too complex", "too deep")):
        return "is too large"
    return "fails on the database"


def _fault(error: Exception) -> str:
    return "is out of memory" if isinstance(error, MemoryError) else str(error)


def _may_build(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if second == "load_extension" else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA:
        return sqlite3.SQLITE_OK if first in _SETTINGS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _BUILDING else sqlite3.SQLITE_DENY


def _may_query(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if str(second).lower() in _FUNCTIONS.split() else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _QUERYING else sqlite3.SQLITE_DENY


def _limit_time(database: sqlite3.Connection, seconds: float) -> None:
    end = time.monotonic() + seconds
    database.set_progress_handler(lambda: time.monotonic() > end, _STEPS)


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Let the kernel end this process after `seconds`, unless the block ends before."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _reply(answer: Answer) -> None:
    # for the process that started this one, not for people
    output = sys.stdout.buffer
    output.write(json.dumps(answer).encode() + b"\n")
    output.flush()


if __name__ == "__main__":
    main()
