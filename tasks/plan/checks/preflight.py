"""Asks many questions at the same time, before anything is computed, and reports all failures together.

Other modules decide what a question asks (a file, the hub, a tracker). This one runs the questions in parallel, limits
their time, and formats their answers.
"""

from __future__ import annotations

import contextvars
import logging
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from configs.addresses import first_line, shown_text, without_secrets
from configs.errors import ConfigError, FineTuneError, ModelError, UnreachableError
from configs.printable import joined_lines, one_line, printable
from configs.wire_plan import Check, CheckResult
from tasks.files.waiting import limit_seconds

log = logging.getLogger(__name__)

NETWORK_SECONDS = 2.5 * limit_seconds()
"""Time limit of a question to a server, which may be several requests."""
READING_SECONDS = 24 * 3600.0
"""Time limit of a question that reads whole files: in effect none."""
_WIDTH = 110
_MAX_SHOWN = 3
_NO_NETWORK = "not checked: no network"

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a question found without failing. `warning` needs attention but stops nothing; `fix` says what to do."""

    found: str
    value: Any = None
    warning: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Question:
    """One check. `ask` raises a `FineTuneError` if it fails; `limit_seconds` is its time limit."""

    name: str
    ask: Callable[[], Finding]
    limit_seconds: float = NETWORK_SECONDS


@dataclass(frozen=True)
class Answer:
    """The outcome of a question: its check, the `value` of its finding, and the `error` that stops a run."""

    check: Check
    value: Any = None
    error: FineTuneError | None = None


class NotCheckedError(Exception):
    """Raised by a question that cannot be answered, which is not a failure; says why."""


class Shared(Generic[T]):
    """A value that several questions need; the first to ask computes it, the others wait for it.

    `name` is the question that fails if the value cannot be computed.
    """

    def __init__(self, name: str, compute: Callable[[], T]) -> None:
        self.name = name
        self._compute = compute
        self._lock = threading.Lock()
        self._outcome: tuple[T | None, BaseException | None] | None = None

    def value(self) -> T:
        """Return the value, or raise the error of computing it. Only the question called `name` calls this."""
        with self._lock:
            if self._outcome is None:
                try:
                    self._outcome = (self._compute(), None)
                except BaseException as error:
                    self._outcome = (None, error)
        value, failure = self._outcome
        if failure is not None:
            raise failure
        return value  # type: ignore[return-value]

    def needed(self) -> T:
        """Return the value. All other questions call this.

        Raises:
            NotCheckedError: it could not be computed, which the question called `name` reports as its failure.
        """
        try:
            return self.value()
        except NotCheckedError:
            raise
        except UnreachableError:
            raise NotCheckedError(f"no network (needs `{self.name}`)") from None
        except Exception:
            raise NotCheckedError(f"needs `{self.name}`") from None


def answer(questions: Sequence[Question]) -> list[Answer]:
    """Ask all questions in parallel, each in its own thread, and return their answers in the order given.

    Threads have the caller's context (contextvars). A question that takes too long is reported as not answered, and its
    thread is left running: it is a daemon, which ends with the process.
    """
    answers: list[Answer | None] = [None] * len(questions)

    def ask(position: int) -> None:
        answers[position] = _answer(questions[position])

    began = time.monotonic()
    threads = []
    for position, question in enumerate(questions):
        run = contextvars.copy_context().run
        threads.append(threading.Thread(target=run, args=(ask, position), name=question.name, daemon=True))
        threads[-1].start()
    for thread, question in zip(threads, questions, strict=True):
        thread.join(max(0.0, began + question.limit_seconds - time.monotonic()))
    return [answered or _timed_out(question) for answered, question in zip(list(answers), questions, strict=True)]


def _answer(question: Question) -> Answer:
    try:
        finding = question.ask()
    except UnreachableError as error:
        found, fix = _found_and_fix(error)
        return Answer(_check(question, "not checked", f"{_NO_NETWORK}: {found}", fix), error=error)
    except FineTuneError as error:
        return Answer(_check(question, "failed", *_found_and_fix(error)), error=error)
    except NotCheckedError as reason:
        return Answer(_check(question, "not checked", f"not checked: {reason}"))
    except Exception as fault:
        # the library's text may quote an address with its password
        log.error("the check `%s` itself failed\n%s", one_line(question.name), without_secrets(traceback.format_exc()))
        failure = FineTuneError(
            f"the check `{question.name}` itself failed ({type(fault).__name__})\n"
            "this is a fault of the project, not of the config; the log has its traceback"
        )
        return Answer(_check(question, "failed", *_found_and_fix(failure)), error=failure)
    except BaseException as fault:
        # pyo3, by which Rust's libraries are called, has no public class for it
        if type(fault).__name__ != "PanicException":
            raise
        failure = ModelError(
            f"{question.name}: a file of the model makes the library that reads it fail ({first_line(fault)})\n"
            "copy the model again, or name another"
        )
        return Answer(_check(question, "failed", *_found_and_fix(failure)), error=failure)
    if finding.warning:
        return Answer(_check(question, "warning", finding.warning, finding.fix), finding.value)
    return Answer(_check(question, "ok", finding.found, finding.fix), finding.value)


def _timed_out(question: Question) -> Answer:
    message = f"{question.name}: no answer within {question.limit_seconds:g} s"
    fix = "check the network between this machine and the server, or try again later"
    check = _check(question, "not checked", f"not checked: no answer within {question.limit_seconds:g} s", fix)
    return Answer(check, error=UnreachableError(f"{message}\n{fix}"))


def _check(question: Question, result: CheckResult, found: str, fix: str = "") -> Check:
    return Check(name=question.name, result=result, found=shown_text(found), fix=shown_text(fix))


def _found_and_fix(error: FineTuneError) -> tuple[str, str]:
    """Split an error into what was found and the fix: its last line, or the part after the last `; `."""
    lines = str(error).splitlines() or [type(error).__name__]
    if lines[1:]:
        return "\n".join(lines[:-1]), lines[-1]
    found, mark, fix = lines[0].rpartition("; ")
    return (found, fix) if mark else (lines[0], "")


def value_of(answers: Sequence[Answer], name: str, default: Any = None) -> Any:
    """Return the value of the answer called `name`, or `default` if it was not asked or has no value."""
    values = (answer.value for answer in answers if answer.check.name == name)
    return next((value for value in values if value is not None), default)


def fail_together(answers: Sequence[Answer], needs_network: bool) -> None:
    """Raise if a check failed: a single error as it is, several as one.

    With `needs_network`, a server that could not be reached is a failure too.

    Raises:
        FineTuneError: the only failure, unchanged; for several, a `ConfigError` with a line for each of the first
            three, with its fix, and the number of all. The console's lists show the first 100 characters.
    """
    errors = [
        (answer.check.name, answer.error)
        for answer in answers
        if answer.error is not None and (needs_network or not isinstance(answer.error, UnreachableError))
    ]
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0][1]
    lines = [f"{name}: {joined_lines(error)}" for name, error in errors[:_MAX_SHOWN]]
    others = f" ({len(errors) - _MAX_SHOWN} more than these)" if len(errors) > _MAX_SHOWN else ""
    raise ConfigError("\n".join([*lines, f"{len(errors)} checks failed before anything was started{others}"]))


def text_table(checks: Sequence[Check]) -> str:
    """Return the checks as a plain-text table for a terminal: check, result, found, and below it the fix."""
    names = max([len("check"), *(len(check.name) for check in checks)])
    results = max([len("result"), *(len(check.result) for check in checks)])
    indent = " " * (names + results + 4)
    lines = [f"{'check':<{names}}  {'result':<{results}}  found"]
    for check in checks:
        found = _wrapped(check.found, len(indent)) or [""]
        lines.append(f"{check.name:<{names}}  {check.result:<{results}}  {found[0]}".rstrip())
        lines += [indent + line for line in found[1:]]
        if check.fix and check.result != "ok":
            lines += [indent + "  " + line for line in _wrapped(f"-> {check.fix}", len(indent) + 2)]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    # keep paths and addresses whole: users copy them from the table
    width = max(30, _WIDTH - indent)
    settings = {"break_long_words": False, "break_on_hyphens": False}
    return [line for part in printable(text).splitlines() for line in textwrap.wrap(part, width, **settings)]  # type: ignore[arg-type]
