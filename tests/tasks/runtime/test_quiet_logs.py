"""Only reports of connections that stay open until the process ends are hidden from a pod's log."""

from __future__ import annotations

import logging

import pytest
from flytekit.loggers import logger

from tasks.runtime import quiet_logs


@pytest.mark.parametrize(
    ("message", "is_shown"),
    [
        ("Taskrunner for x : loop-runner caught exception in <loop>: {'message': 'Unclosed client session'}", False),
        ("Taskrunner for x : loop-runner caught exception in <loop>: {'message': 'Unclosed connector'}", False),
        ("Taskrunner for x : loop-runner caught exception in <loop>: {'exception': KeyError()}", True),
        ("a user's own words: Unclosed client session", True),
    ],
)
def test_only_reports_of_open_connections_are_hidden(message: str, is_shown: bool) -> None:
    record = logging.LogRecord("flytekit", logging.ERROR, "", 0, message, None, None)
    assert bool(logger.filter(record)) == is_shown


def test_the_filter_is_added_only_once() -> None:
    before = len(logger.filters)
    quiet_logs.hide_harmless_reports()
    assert len(logger.filters) == before
