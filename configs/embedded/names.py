"""The names by which a config asks for what the project makes itself."""

from __future__ import annotations

from configs.errors import ConfigError

EMBEDDED_MODEL = "embedded:english-to-sql"
EMBEDDED_DATA = "embedded:english-to-sql"
DEFAULT_ROWS = 8000


def parse_embedded_source(path: str) -> int:
    """Return the number of rows that `embedded:english-to-sql[:rows]` asks for.

    Raises:
        ConfigError: another name, or a number of rows that is not one.
    """
    name, _, rows = path.removeprefix(EMBEDDED_DATA).partition(":")
    if not path.startswith(EMBEDDED_DATA) or name:
        raise ConfigError(f"path={path} is not an embedded data set; the only one is {EMBEDDED_DATA}[:rows]")
    if rows and not (rows.isdigit() and int(rows) > 0):
        raise ConfigError(f"path={path}: {rows!r} is not a number of rows; write {EMBEDDED_DATA}:2000")
    return int(rows or DEFAULT_ROWS)
