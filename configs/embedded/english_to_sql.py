"""Synthetic English-to-SQL data for the embedded default run.

A newcomer's first run must work without a download, end in minutes on a laptop, and still show a model that has
learned something readable. Public text-to-SQL sets are too varied for that. This module draws questions about a small
fixed schema from a grammar in which every question has exactly one right SQL statement, so exact match is a fair
score. It uses only the standard library, and its output depends only on the seed.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from configs.embedded.sql_schema import AGE, ID, RELATIONS, TABLES, Column, Table

# From related lines, a base model learns to copy names and numbers out of earlier lines, which is most of the task.
LINES_PER_TOPIC = 4

# One question in four, chosen by a hash of its text, is used for pretraining and never becomes a labelled row.
_UNLABELLED_SHARE = 4

_LIST_OPENERS = ("Show the {}.", "List the {}.", "Find the {}.", "Give me the {}.", "What are the {}?")
_ROW_OPENERS = ("Show all {}.", "List all {}.", "Find all {}.", "Get all data about {}.")
_COUNT_OPENERS = ("How many {} are there", "Count the {}", "What is the number of {}", "Tell me how many {} there are")
_AGGREGATES = {
    "AVG": ("average {}", "mean {}"),
    "SUM": ("total {}", "sum of the {}"),
    "MAX": ("highest {}", "maximum {}"),
    "MIN": ("lowest {}", "minimum {}"),
}


@dataclass(frozen=True)
class Subject:
    """The rows that a question is about: `english` is a plural noun phrase, `source` the SQL from the word FROM on.

    `prefix` qualifies the table's own columns, and is empty unless `source` joins two tables.
    """

    table: Table
    english: str
    source: str
    prefix: str = ""


def _sentence(text: str) -> str:
    return f"{text}{'?' if text.startswith(('How', 'What', 'Which')) else '.'}"


def _text_condition(rng: random.Random, column: Column) -> tuple[str, str]:
    """Draw (English, SQL) that compare a text column with one or two of its values."""
    first, second = sorted(rng.sample(column.values, 2))
    kind = rng.random()
    if kind < 0.2:
        spoken = rng.choice((f"{first} or {second}", f"either {first} or {second}"))
        return f"whose {column.noun} is {spoken}", f"{column.name} IN ('{first}', '{second}')"
    value = rng.choice((first, second))
    if kind < 0.3:
        return f"whose {column.noun} is not {value}", f"{column.name} != '{value}'"
    return rng.choice(column.phrases).format(value), f"{column.name} = '{value}'"


def _number_condition(rng: random.Random, column: Column) -> tuple[str, str]:
    """Draw (English, SQL) that compare a number column with a constant or a range."""
    low, high = sorted(rng.sample(column.values, 2), key=int)
    having = f"with {'an' if column.noun[0] in 'aeiou' else 'a'} {column.noun}"
    above, below = column.phrases
    return rng.choice(
        (
            (above.format(low), f"{column.name} > {low}"),
            (f"{having} above {low}", f"{column.name} > {low}"),
            (below.format(high), f"{column.name} < {high}"),
            (f"{having} under {high}", f"{column.name} < {high}"),
            (f"{having} of at least {low}", f"{column.name} >= {low}"),
            (f"{having} of at most {high}", f"{column.name} <= {high}"),
            (f"{having} of {low}", f"{column.name} = {low}"),
            (f"{having} between {low} and {high}", f"{column.name} BETWEEN {low} AND {high}"),
        )
    )


def _condition(rng: random.Random, table: Table) -> tuple[str, str]:
    """Draw (English, SQL) for one condition on `table`."""
    kinds: list[tuple[Callable[[random.Random, Column], tuple[str, str]], Column]]
    kinds = [(_text_condition, column) for column in table.texts]
    kinds += [(_number_condition, column) for column in table.numbers]
    if table.label != ID and rng.random() < 0.2:
        letter, verb = rng.choice("ABCDEFGHJKLM"), rng.choice(("starts with", "begins with"))
        return f"whose {table.label.noun} {verb} {letter}", f"{table.label.name} LIKE '{letter}%'"
    draw, column = rng.choice(kinds)
    return draw(rng, column)


def _subject(rng: random.Random) -> Subject:
    """Draw the rows to ask about: a whole table, rows that meet one or two conditions, or children of such a row."""
    if rng.random() < 0.15:
        relation = rng.choice(RELATIONS)
        english, sql = _condition(rng, TABLES[relation.parent])
        join = f"JOIN {relation.parent} ON {relation.child}.{relation.key} = {relation.parent}.id"
        return Subject(
            TABLES[relation.child],
            f"{relation.child} {relation.phrase} {relation.parent} {english}",
            f"FROM {relation.child} {join} WHERE {relation.parent}.{sql}",
            f"{relation.child}.",
        )
    table = rng.choice(list(TABLES.values()))
    names = [column.name for column in table.columns]
    # Conditions follow the order of the table's columns, as people tend to write; another order would not be harder.
    first, second = sorted(
        (_condition(rng, table), _condition(rng, table)), key=lambda pair: names.index(pair[1].split()[0])
    )
    number = rng.random()
    if number < 0.15:
        return Subject(table, table.name, f"FROM {table.name}")
    if number < 0.65 or " IN " in first[1] + second[1] or "BETWEEN" in first[1] + second[1]:
        return Subject(table, f"{table.name} {first[0]}", f"FROM {table.name} WHERE {first[1]}")
    if first[1].split()[0] == second[1].split()[0]:
        return Subject(table, f"{table.name} {first[0]}", f"FROM {table.name} WHERE {first[1]}")
    word = rng.choice(("and", "and", "or"))
    return Subject(
        table,
        f"{table.name} {first[0]} {word} {second[0]}",
        f"FROM {table.name} WHERE {first[1]} {word.upper()} {second[1]}",
    )


def _listing(rng: random.Random, subject: Subject) -> tuple[str, str]:
    """Ask for columns of the rows, sometimes sorted."""
    columns = [column for column in subject.table.columns if not column.name.endswith("_id")]
    chosen = sorted(rng.sample(columns, rng.choice((1, 1, 2))), key=columns.index)
    order_english = order_sql = ""
    numbers = subject.table.numbers
    if numbers and rng.random() < 0.35:
        column = rng.choice(numbers)
        phrase, direction = rng.choice(
            (
                (" sorted by {}", ""),
                (" ordered by {}", ""),
                (" with the lowest {} first", ""),
                (" sorted by {} in descending order", " DESC"),
                (" with the highest {} first", " DESC"),
            )
        )
        order_english = phrase.format(column.noun)
        order_sql = f" ORDER BY {subject.prefix}{column.name}{direction}"
    tail = f"{subject.source}{order_sql}"
    if rng.random() < 0.15 and not subject.prefix:
        return rng.choice(_ROW_OPENERS).format(f"{subject.english}{order_english}"), f"SELECT * {tail}"
    english = f"{' and '.join(column.plural for column in chosen)} of {subject.english}{order_english}"
    selected = ", ".join(subject.prefix + column.name for column in chosen)
    return rng.choice(_LIST_OPENERS).format(english), f"SELECT {selected} {tail}"


def _count(rng: random.Random, subject: Subject) -> tuple[str, str]:
    """Ask how many rows there are."""
    return _sentence(rng.choice(_COUNT_OPENERS).format(subject.english)), f"SELECT COUNT(*) {subject.source}"


def _aggregate(rng: random.Random, subject: Subject) -> tuple[str, str]:
    """Ask for one number over a column of the rows."""
    if not subject.table.numbers:
        return _count(rng, subject)
    column = rng.choice(subject.table.numbers)
    function = rng.choice([name for name in _AGGREGATES if not (name == "SUM" and column is AGE)])
    asked = rng.choice(_AGGREGATES[function]).format(column.noun)
    opener = rng.choice(("What is the {}", "Find the {}", "Compute the {}"))
    question = _sentence(opener.format(f"{asked} of {subject.english}"))
    return question, f"SELECT {function}({subject.prefix}{column.name}) {subject.source}"


def _group(rng: random.Random, subject: Subject) -> tuple[str, str]:
    """Ask for a count or an aggregate per value of a text column."""
    column = rng.choice(subject.table.texts)
    question, sql = rng.choice((_count, _aggregate))(rng, subject)
    per = rng.choice(("for each", "per"))
    group = f"{subject.prefix}{column.name}"
    grouped_question = f"{question[:-1]} {per} {column.noun}{question[-1]}"
    return grouped_question, f"{sql.replace('SELECT ', f'SELECT {group}, ', 1)} GROUP BY {group}"


def _top(rng: random.Random, subject: Subject) -> tuple[str, str]:
    """Ask for the rows with the largest or smallest values of a column."""
    if not subject.table.numbers:
        return _listing(rng, subject)
    column, largest, limit = rng.choice(subject.table.numbers), rng.random() < 0.5, rng.randint(1, 10)
    adjective = column.superlatives[0 if largest else 1]
    selected, ordered = subject.prefix + subject.table.label.name, subject.prefix + column.name
    sql = f"SELECT {selected} {subject.source} ORDER BY {ordered}{' DESC' if largest else ''} LIMIT {limit}"
    if limit == 1:
        singular = subject.english.replace(subject.table.name, subject.table.singular, 1)
        return rng.choice(("Which is the {} {}?", "Find the {} {}.")).format(adjective, singular), sql
    opener = rng.choice(("Which are the {} {} {}?", "Show the {} {} {}.", "List the {} {} {}."))
    return opener.format(limit, adjective, subject.english), sql


def _topic(rng: random.Random, num_pairs: int, unlabelled: bool) -> list[tuple[str, str]]:
    """Draw (question, SQL) pairs about the same rows: with `unlabelled` only those kept for pretraining, else only the
    others."""
    subject, pairs = _subject(rng), list[tuple[str, str]]()
    while len(pairs) < num_pairs:
        construct = rng.choice((_listing, _listing, _count, _aggregate, _group, _top))
        question, sql = construct(rng, subject)
        digest = hashlib.sha256(f"unlabelled {question}".encode()).digest()
        if (digest[0] % _UNLABELLED_SHARE == 0) == unlabelled:
            pairs.append((question, sql))
    return pairs


def make_rows(num_rows: int, seed: int) -> list[dict[str, str]]:
    """Draw labelled rows.

    Args:
        num_rows: Number of rows; no two have the same prompt.
        seed: The same seed gives the same rows, and fewer rows are the beginning of more rows.

    Returns:
        Rows of "prompt", an English question, and "completion", the SQL statement that answers it.
    """
    rng = random.Random(f"rows {seed}")
    completions: dict[str, str] = {}
    while len(completions) < num_rows:
        [(question, sql)] = _topic(rng, 1, unlabelled=False)
        completions[question] = sql
    return [{"prompt": question, "completion": sql} for question, sql in completions.items()]


def make_unlabelled_text(num_lines: int, seed: int) -> list[str]:
    """Draw text to pretrain a base model on; it shows both languages, but not how they correspond.

    Args:
        num_lines: Number of lines.
        seed: The same seed gives the same lines.

    Returns:
        Questions in the first half, SQL statements in the second; every LINES_PER_TOPIC lines are about the same rows.
        For all seeds, no question is a prompt of `make_rows`, and no topic is shown in both languages.
    """
    rng = random.Random(f"unlabelled {seed}")
    lines: list[str] = []
    while len(lines) < num_lines:
        language = 0 if 2 * len(lines) < num_lines else 1
        lines += [pair[language] for pair in _topic(rng, LINES_PER_TOPIC, unlabelled=True)]
    return lines[:num_lines]
