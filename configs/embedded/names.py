"""The names by which a config asks for what the project makes itself."""

from __future__ import annotations

from configs.errors import ConfigError

EMBEDDED_MODEL = "embedded:english-to-sql"
EMBEDDED_DATA = "embedded:english-to-sql"
EMBEDDED_PREFERENCES = "embedded:english-to-sql-preferences"
DEFAULT_ROWS = 8000


def parse_embedded_source(path: str) -> tuple[str, int]:
    """Return name and number of rows of the embedded data set that `path`, a name and perhaps `:rows`, asks for.

    Raises:
        ConfigError: another name, or a number of rows that is not one.
    """
    known = (EMBEDDED_DATA, EMBEDDED_PREFERENCES)
    name = max((each for each in known if path.startswith(each)), key=len, default="")
    rest, _, rows = path.removeprefix(name).partition(":")
    if not name or rest:
        raise ConfigError(f"path={path} is not an embedded data set; they are {' and '.join(known)}, each with [:rows]")
    if rows and not (rows.isdigit() and int(rows) > 0):
        raise ConfigError(f"path={path}: {rows!r} is not a number of rows; write {name}:2000")
    return name, int(rows or DEFAULT_ROWS)
