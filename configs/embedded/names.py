"""The names by which a config asks for the model and the data sets that the project makes itself."""

from __future__ import annotations

from configs.errors import ConfigError
from configs.printable import one_line

EMBEDDED_MODEL = "embedded:english-to-sql"
EMBEDDED_DATA = "embedded:english-to-sql"
EMBEDDED_PREFERENCES = "embedded:english-to-sql-preferences"
DEFAULT_ROWS = 8000


def parse_embedded_source(path: str) -> tuple[str, int]:
    """Return the name and the number of rows of the embedded data set that `path` names, as `name` or `name:rows`.

    Raises:
        ConfigError: the name is unknown, or `rows` is not a number of at least 1.
    """
    known = (EMBEDDED_DATA, EMBEDDED_PREFERENCES)
    name = max((data_set for data_set in known if path.startswith(data_set)), key=len, default="")
    rest, _, rows = path.removeprefix(name).partition(":")
    if not name or rest:
        raise ConfigError(
            f"path={one_line(path)} is not an embedded data set; use {' or '.join(known)}, with or without :rows, "
            "such as :2000"
        )
    if rows and not (rows.isdigit() and int(rows) > 0):
        raise ConfigError(f"path={one_line(path)}: {rows!r} is not a number of rows; write {name}:2000")
    return name, int(rows or DEFAULT_ROWS)
