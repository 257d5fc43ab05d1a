"""Queries of answers are run and compared by result, whatever they try to do."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from configs.embedded.english_to_sql import make_rows
from configs.errors import ConfigError
from configs.schema.measures import MeasureConfig
from tasks.measures.demo_database import demo_database
from tasks.measures.measured import AnsweredRow, RowValues, score
from tasks.measures.sql import Database, QueryFault, fitting_rows, is_ordered, opened_database, query_in, sql_results

DEMO = MeasureConfig(name="sql", database="embedded:english-to-sql")
SHOP = """
-- two tables; the semicolons of this comment; and of a text are none
CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price REAL, picture BLOB);
INSERT INTO items VALUES (1, 'pen; blue', 2.0, x'00ff'), (2, 'cup', 4, NULL), (3, 'hat', 4.0, NULL);
CREATE VIEW cheap AS SELECT * FROM items WHERE price < 3;
"""
FOREVER = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
DOUBLING = "WITH a0 AS (SELECT 1 x), " + ", ".join(
    f"a{n} AS (SELECT p.x FROM a{n - 1} p, a{n - 1} q)" for n in range(1, 41)
)


def measured(config: MeasureConfig, *pairs: tuple[str, str]) -> RowValues:
    rows = [AnsweredRow(str(n), "", expected, answer) for n, (answer, expected) in enumerate(pairs)]
    return sql_results(config, rows)


@pytest.fixture(scope="module")
def shop() -> MeasureConfig:
    return MeasureConfig(name="sql", database=SHOP)


@pytest.fixture(scope="module")
def demo() -> Iterator[Database]:
    with opened_database(DEMO) as database:
        yield database


def outcome(database: Database, query: str) -> Any:
    """Return what the measure compares of a query's result: a list, or a bag of rows."""
    result = database.result(query)
    return tuple(result) if is_ordered(query) else frozenset(Counter(result).items())


def test_results_are_compared_and_not_texts(shop: MeasureConfig) -> None:
    all_names = "SELECT name FROM items"
    cases = [
        ("SELECT i.name AS n FROM items AS i WHERE 1;", all_names, 1),
        ("```sql\nSELECT name FROM items;\n```", all_names, 1),
        # without an order of the expected query, any order is right; with one, it is not
        ("SELECT name FROM items ORDER BY id DESC", all_names, 1),
        ("SELECT name FROM items ORDER BY id", "SELECT name FROM items ORDER BY id DESC", 0),
        ("SELECT name FROM items ORDER BY -id", "SELECT name FROM items ORDER BY id DESC", 1),
        # bags, not sets
        ("SELECT DISTINCT price FROM items", "SELECT price FROM items", 0),
        # by position, not by name
        ("SELECT price, name FROM items", "SELECT name, price FROM items", 0),
        # by value: 2.0 is 2, and a text is no number
        ("SELECT 2", "SELECT price FROM items WHERE id = 1", 1),
        ("SELECT '2'", "SELECT price FROM items WHERE id = 1", 0),
        ("SELECT 0.1 + 0.2", "SELECT 0.3", 1),
        ("SELECT 0.301", "SELECT 0.3", 0),
        ("SELECT NULL", "SELECT picture FROM items WHERE id = 2", 1),
        ("SELECT 'NULL'", "SELECT picture FROM items WHERE id = 2", 0),
        ("SELECT x'00FF'", "SELECT picture FROM items WHERE id = 1", 1),
        ("SELECT name FROM cheap", "SELECT name FROM items WHERE id = 1", 1),
        ("SELECT COUNT(*) FROM items", "SELECT 3", 1),
    ]
    measure = measured(shop, *((answer, expected) for answer, expected, _ in cases))
    assert measure.values.tolist() == [right for _, _, right in cases]
    assert measure.failed == {} and measure.not_counted == {}


HOSTILE = [
    ("DROP TABLE items", "does more than read tables"),
    ("DELETE FROM items", "does more than read tables"),
    ("INSERT INTO items (name) VALUES ('x')", "does more than read tables"),
    ("UPDATE items SET price = 0", "does more than read tables"),
    ("CREATE TABLE t (x)", "does more than read tables"),
    ("WITH x AS (SELECT 1) DELETE FROM items", "does more than read tables"),
    ("ATTACH DATABASE '{file}' AS other", "does more than read tables"),
    ("VACUUM INTO '{file}'", None),
    ("PRAGMA query_only=OFF", "does more than read tables"),
    ("SELECT load_extension('{file}')", "does more than read tables"),
    ("SELECT writefile('{file}', 'x')", "fails on the database"),
    ("SELECT readfile('/etc/passwd')", "fails on the database"),
    ("SELECT randomblob(1000000000)", "does more than read tables"),
    ("SELECT zeroblob(2147483647)", "does more than read tables"),
    ("BEGIN", "does more than read tables"),
    ("SELECT 1; DROP TABLE items", "is more than one statement"),
    (FOREVER + "SELECT x FROM n", "has a result that is too large"),
    (FOREVER + "SELECT COUNT(*) FROM n", "takes too long"),
    # 2^40 tables to prepare, before SQLite runs a single step
    (DOUBLING + " SELECT COUNT(*) FROM a40", "takes too"),
    ("SELECT " + "hex(" * 300 + "1" + ")" * 300, None),
    ("SELECT " + "1," * 20_000 + "1", "is too large"),
    ("SELECT nothing FROM items", "fails on the database"),
    ("I do not know", "fails on the database"),
    ("\ud800", "fails on the database"),
    ("SELECT 1\x00", None),
    ("", "is not a query"),
    ("-- nothing", "is not a query"),
]


def test_hostile_queries_count_as_zero_with_a_reason(shop: MeasureConfig, tmp_path: Path) -> None:
    file = tmp_path / "written"
    begun = time.monotonic()
    with opened_database(shop) as database:
        for query, reason in HOSTILE:
            with pytest.raises(QueryFault) as fault:
                database.result(query.replace("{file}", str(file)))
            assert reason is None or str(fault.value).startswith(reason), query[:60]
            # nothing has changed, also where the process was started again
            assert database.result(f"SELECT COUNT(*), SUM(price) /* {hash(query)} */ FROM items") == [(3, 10)], query[
                :60
            ]
        # SQLite itself ends this one
        assert len(database.result("SELECT printf('%1000000000d', 1)")) == 1
    assert not list(tmp_path.iterdir())
    assert time.monotonic() - begun < 8
    measure = measured(
        shop, ("DROP TABLE items", "SELECT 1"), ("SELECT 1", "SELECT 1"), ("SELECT 1", "DROP TABLE items")
    )
    assert measure.values[:2].tolist() == [0, 1] and np.isnan(measure.values[2])
    assert measure.failed == {"the query does more than read tables": 1}
    assert measure.not_counted == {"the expected query does more than read tables": 1}
    assert score(measure.sums.sum(0), measure.reduction) == 0.5


def test_each_limit_holds_without_the_others(shop: MeasureConfig) -> None:
    with opened_database(shop) as database:
        first = database._process.pid
        # one address space for SQLite and Python, in bytes
        assert f"{2**29}" in Path(f"/proc/{first}/limits").read_text(encoding="utf-8")
        with pytest.raises(QueryFault, match="takes too long"):
            database.result(FOREVER + "SELECT MAX(x) FROM n")
        # SQLite ended it, and not the kernel
        assert database._process.pid == first
        # as the kernel does where SQLite does not
        os.kill(first, signal.SIGALRM)
        with pytest.raises(QueryFault, match="takes too long"):
            database.result("SELECT 1")
        assert database._process.pid != first and database.result("SELECT COUNT(*) FROM items") == [(3,)]


def test_the_kernel_ends_what_neither_sqlite_nor_python_can() -> None:
    endless = "from tasks.measures.sql_process import _alarm\nwith _alarm(0.1): sum(range(10**12))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", endless], env=environment, cwd=ROOT, timeout=20)
    assert ended.returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CREATE TABLE a (x); INSERT INTO b VALUES (1);", "statement 2 failed: no such table: b"),
        ("CREATE TABLE a (x); ATTACH '/tmp/x.db' AS o;", "statement 2 failed: not authorized"),
        ("CREATE TABLE a (x", "statement 1 failed: near"),
        ("SELECT load_extension('x');", "statement 1 failed: not authorized"),
        ("embedded:nothing", "database of sql: embedded:nothing does not exist; write embedded:english-to-sql"),
    ],
)
def test_a_wrong_database_is_one_error(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        fitting_rows(MeasureConfig(name="sql", database=text), ["SELECT 1"])
    assert "evaluate.measures" in str(error.value) and len(str(error.value).splitlines()) <= 2


def test_what_sqlite_dumps_is_a_database() -> None:
    dump = "PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCREATE TABLE t (x);\nINSERT INTO t VALUES(7);\nCOMMIT;\n"
    config = MeasureConfig(name="sql", database=dump)
    assert measured(config, ("SELECT x FROM t", "SELECT 7")).values.tolist() == [1]
    assert fitting_rows(config, ["SELECT x FROM t", "SELECT y FROM t", "no query"]) == 1


@pytest.mark.parametrize(
    ("query", "ordered"),
    [
        ("SELECT a FROM t ORDER BY a", True),
        ("select a from t order\n by a limit 3", True),
        ("SELECT a FROM t /* x */ ORDER /* y */ BY a;", True),
        ("WITH s AS (SELECT 1) SELECT a FROM t UNION SELECT 2 ORDER BY 1", True),
        ("SELECT a FROM (SELECT a FROM t ORDER BY a)", False),
        ("SELECT RANK() OVER (ORDER BY a) FROM t", False),
        ("SELECT a FROM t WHERE b = ' ORDER BY '", False),
        ('SELECT "ORDER BY" FROM t -- ORDER BY a', False),
        ("SELECT a FROM t WHERE b = ')' ORDER BY a", True),
    ],
)
def test_where_an_order_counts(query: str, ordered: bool) -> None:
    assert is_ordered(query) == ordered


def test_a_query_in_a_fence_is_taken_out() -> None:
    assert query_in("```sql\nSELECT 1;\n```") == query_in(" SELECT 1 ; ") == "SELECT 1"
    assert query_in("Here:\n```sql\nSELECT 1\n```") != "SELECT 1"


def test_the_demo_database_tells_its_queries_apart(demo: Database) -> None:
    queries = sorted({row["completion"] for row in make_rows(1000, seed=3)})
    outcomes = {query: outcome(demo, query) for query in queries}
    groups = Counter(outcomes.values())
    pairs = sum(count * (count - 1) // 2 for count in groups.values())
    # by chance, two of many counts and averages are the same number
    assert pairs < 0.001 * len(queries) * (len(queries) - 1) / 2
    assert sum(not result for result in outcomes.values()) < 0.01 * len(queries)
    listings = [query for query in queries if not re.match(r"SELECT (?:\S+, )?(COUNT|AVG|SUM|MAX|MIN)\(", query)]
    same = Counter(outcomes[query] for query in listings)
    assert len(listings) > 300 and sum(count for count in same.values() if count > 1) < 0.06 * len(listings)


def test_one_wrong_part_of_a_demo_query_changes_its_result(demo: Database) -> None:
    changes = [(">=", ">"), (" > ", " >= "), (" < ", " <= "), ("<=", "<"), (" AND ", " OR "), (" DESC", "")]
    changes += [("AVG", "MAX"), ("MAX", "MIN"), ("SUM", "AVG"), ("Berlin", "Paris"), ("COUNT(*)", "COUNT(*) + 1")]
    found: Counter[bool] = Counter()
    for row in make_rows(600, seed=4):
        query = row["completion"]
        for part, other in changes:
            # BETWEEN has an AND of its own, and a bound seldom decides an extreme
            is_bound = part.strip() in (">=", ">", "<", "<=")
            is_same = "BETWEEN" in query or (is_bound and re.search(r"LIMIT|MIN|MAX", query))
            if part in query and not is_same:
                found[outcome(demo, query) != outcome(demo, query.replace(part, other, 1))] += 1
    assert found.total() > 300 and found[True] > 0.97 * found.total()


def test_equal_queries_in_other_words_have_the_same_result(demo: Database) -> None:
    for row in make_rows(200, seed=5):
        query = row["completion"]
        other = query.lower() if "'" not in query else re.sub(r"\b(SELECT|FROM|WHERE|AND)\b", r"\n\1 ", query)
        other = re.sub(r"([\w.]+) BETWEEN (\d+) AND (\d+)", r"(\1 >= \2 AND NOT \1 > \3)", other)
        other = re.sub(r"([\w.]+) IN \(('\w+'), ('\w+')\)", r"(\1 = \3 OR \1 = \2)", other)
        assert outcome(demo, query) == outcome(demo, other), query
    twice = random.Random(0).sample([row["completion"] for row in make_rows(50, seed=6)], 20)
    assert measured(DEMO, *((query, query) for query in twice)).values.tolist() == [1.0] * 20
    assert demo_database() == demo_database.__wrapped__()
