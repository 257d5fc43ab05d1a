"""Tables of the synthetic English-to-SQL data, with the English for each column.

The schema is separate from the grammar, so a table can be added without a change to how questions are drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One typed column, and the English to ask about it.

    Attributes:
        name: Column name in SQL. With spaces for underscores, it is also the English noun.
        sql_type: INTEGER or TEXT.
        values: Constants that questions compare the column with; empty if no question compares it.
        phrases: For a text column, ways to say that it equals a value; for a number column, (above, below). "{}" stands
            for the value.
        superlatives: For a number column, adjectives for the rows with the (largest, smallest) value.
    """

    name: str
    sql_type: str
    values: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    superlatives: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        """English singular."""
        return self.name.replace("_", " ")

    @property
    def plural(self) -> str:
        """English plural."""
        if self.noun.endswith("y"):
            return f"{self.noun[:-1]}ies"
        return f"{self.noun}es" if self.noun.endswith("s") else f"{self.noun}s"


@dataclass(frozen=True)
class Table:
    """One table; its name is the English plural for its rows."""

    name: str
    columns: tuple[Column, ...]

    @property
    def singular(self) -> str:
        """English for one row."""
        return self.name.removesuffix("s")

    @property
    def texts(self) -> list[Column]:
        """Columns with a closed set of words, fit for equality, IN and GROUP BY."""
        return [column for column in self.columns if column.values and column.sql_type == "TEXT"]

    @property
    def numbers(self) -> list[Column]:
        """Columns fit for comparison, ordering and aggregation."""
        return [column for column in self.columns if column.values and column.sql_type == "INTEGER"]

    @property
    def label(self) -> Column:
        """The column by which a reader recognises a row: its name or title, or else its id."""
        return next((column for column in self.columns if column in (NAME, TITLE)), ID)


@dataclass(frozen=True)
class Relation:
    """A foreign key, and the English that links a row of the child table to one of the parent table."""

    child: str
    key: str
    parent: str
    phrase: str


ID, NAME, TITLE = Column("id", "INTEGER"), Column("name", "TEXT"), Column("title", "TEXT")


def _text(name: str, values: str, *phrases: str) -> Column:
    return Column(name, "TEXT", tuple(values.split(", ")), (*phrases, f"whose {name} is {{}}"))


def _number(name: str, values: Iterable[int], phrases: tuple[str, str], superlatives: tuple[str, str]) -> Column:
    return Column(name, "INTEGER", tuple(str(value) for value in values), phrases, superlatives)


_CITIES = "Berlin, Madrid, Paris, Rome, Oslo, Vienna, London, Athens"
_COUNTRIES = "France, Japan, Brazil, Canada, Kenya, India"
AGE = _number("age", range(20, 80, 10), ("older than {}", "younger than {}"), ("oldest", "youngest"))
_AMOUNT = _number(
    "amount",
    (50, 100, 200, 300, 400, 500),
    ("worth more than {}", "worth less than {}"),
    ("largest", "smallest"),
)
_PRICE = _number(
    "price",
    (10, 20, 30, 40, 50, 100),
    ("costing more than {}", "costing less than {}"),
    ("most expensive", "cheapest"),
)
_SALARY = _number(
    "salary",
    range(30000, 90000, 10000),
    ("earning more than {}", "earning less than {}"),
    ("best paid", "worst paid"),
)
_PAGE_COUNT = _number(
    "page_count", range(100, 700, 100), ("longer than {} pages", "shorter than {} pages"), ("longest", "shortest")
)
_DURATION = _number(
    "duration",
    (60, 90, 120, 180, 240, 300),
    ("longer than {} minutes", "shorter than {} minutes"),
    ("longest", "shortest"),
)

_CUSTOMERS = (
    ID,
    NAME,
    _text("city", _CITIES, "from {}", "living in {}"),
    _text("segment", "retail, business, student, premium", "in the {} segment"),
    AGE,
)
_ORDERS = (
    ID,
    Column("customer_id", "INTEGER"),
    _text("status", "pending, shipped, delivered, cancelled, returned", "marked as {}"),
    _AMOUNT,
)
_PRODUCTS = (
    ID,
    NAME,
    _text("category", "toys, shoes, garden, kitchen, sports, music", "in the {} category"),
    _text("color", "red, blue, green, black, white", "colored {}"),
    _PRICE,
)
_EMPLOYEES = (
    ID,
    NAME,
    _text("department", "sales, marketing, finance, legal, research, support", "in the {} department"),
    _text("office", _CITIES, "based in {}"),
    _SALARY,
    AGE,
)
_AUTHORS = (ID, NAME, _text("country", _COUNTRIES, "from {}"), AGE)
_BOOKS = (
    ID,
    Column("author_id", "INTEGER"),
    TITLE,
    _text("genre", "fantasy, history, poetry, travel, crime, science", "in the {} genre"),
    _text("language", "English, French, German, Spanish, Italian", "written in {}"),
    _PAGE_COUNT,
)
_AIRLINES = (ID, NAME, _text("country", _COUNTRIES, "from {}"))
_FLIGHTS = (
    ID,
    Column("airline_id", "INTEGER"),
    _text("origin", _CITIES, "leaving from {}", "departing from {}"),
    _text("destination", _CITIES, "going to {}", "arriving in {}"),
    _DURATION,
)

TABLES: dict[str, Table] = {
    "customers": Table("customers", _CUSTOMERS),
    "orders": Table("orders", _ORDERS),
    "products": Table("products", _PRODUCTS),
    "employees": Table("employees", _EMPLOYEES),
    "authors": Table("authors", _AUTHORS),
    "books": Table("books", _BOOKS),
    "airlines": Table("airlines", _AIRLINES),
    "flights": Table("flights", _FLIGHTS),
}

RELATIONS = (
    Relation("orders", "customer_id", "customers", "placed by"),
    Relation("books", "author_id", "authors", "written by"),
    Relation("flights", "airline_id", "airlines", "operated by"),
)
