"""Reports of no rows, for tests of steps that only pass them on."""

from __future__ import annotations

from configs.wire import TokenReport


def token_report() -> TokenReport:
    """Return a report of no rows."""
    blank = {int: 0, float: 0.0, str: ""}
    required = {name: field.annotation for name, field in TokenReport.model_fields.items() if field.is_required()}
    values = {name: blank.get(kind, [] if "list" in str(kind) else None) for name, kind in required.items()}
    return TokenReport.model_validate(values | {"end_token_ids": [1]})
