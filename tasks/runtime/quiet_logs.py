"""Hides harmless reports from a pod's log, so that real errors stand out.

flytekit reads stores through s3fs, which keeps its connections open until the process ends. asyncio reports each open
connection, and flytekit logs the report as an error. A pod has two processes of flytekit's: `pyflyte-fast-execute`
downloads the project, waits for the second, and never imports the project. Its logger is kept silent by the variable
FLYTE_SDK_LOGGING_LEVEL of every task (images/specs.py); all that can fail in it raises an exception, which Python
prints. The second, `pyflyte-execute`, imports this module: it logs at flytekit's usual level, with the filter.
"""

from __future__ import annotations

import logging
import os

from flytekit.loggers import LOGGING_ENV_VAR, logger

from images.specs import POD_ENVIRONMENT

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


def use_the_usual_level() -> None:
    """Log warnings and errors of flytekit again, unless somebody has set another level than every task's."""
    if os.environ.get(LOGGING_ENV_VAR) == POD_ENVIRONMENT[LOGGING_ENV_VAR]:
        logger.setLevel(logging.WARNING)


hide_harmless_reports()
use_the_usual_level()
