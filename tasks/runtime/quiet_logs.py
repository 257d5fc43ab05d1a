"""Hides harmless reports from a pod's log, so that real errors stand out.

flytekit reads stores through s3fs, which keeps its connections open until the process ends. asyncio reports each open
connection, and flytekit logs the report as an error.
"""

from __future__ import annotations

import logging

from flytekit.loggers import logger

_HARMLESS = ("Unclosed client session", "Unclosed connector", "Unclosed connection")


class _HarmlessReportFilter(logging.Filter):
    """Drops reports of connections that stay open until the process ends; all other records pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "caught exception in" not in message or not any(text in message for text in _HARMLESS)


def hide_harmless_reports() -> None:
    """Add the filter to flytekit's logger, unless the logger has it already."""
    if not any(isinstance(log_filter, _HarmlessReportFilter) for log_filter in logger.filters):
        logger.addFilter(_HarmlessReportFilter())


hide_harmless_reports()
