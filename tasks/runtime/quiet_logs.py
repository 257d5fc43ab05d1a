"""Leaves out of a pod's log what looks like an error and is none, so that those that are can be found.

flytekit reads stores through s3fs, whose connections are closed by the end of the process and not before; asyncio
reports each of them, and flytekit logs the report as an error.
"""

from __future__ import annotations

import logging

from flytekit.loggers import logger

_HARMLESS = ("Unclosed client session", "Unclosed connector", "Unclosed connection")


class _NotHarmless(logging.Filter):
    """Lets all records pass but reports of connections that the end of the process closes."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "caught exception in" not in message or not any(text in message for text in _HARMLESS)


def leave_out_harmless_reports() -> None:
    """Filter flytekit's log, once for each process."""
    if not any(isinstance(each, _NotHarmless) for each in logger.filters):
        logger.addFilter(_NotHarmless())


leave_out_harmless_reports()
