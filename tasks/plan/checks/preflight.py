"""Ask many questions at once, before anything is computed: each has its own answer, and all failures show together.

What a question asks (a file, the hub, a tracker) is none of this module's business: here is only how they run side by
side, how long each may take, and in what words they come out.
"""

from __future__ import annotations

import contextvars
import logging
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from configs.errors import ConfigError, FineTuneError, UnreachableError
from configs.wire_plan import Check, CheckResult

log = logging.getLogger(__name__)

NETWORK_SECONDS = 60.0
"""A question to a server is given up after so long; those that read whole files take as long as they take."""
READING_SECONDS = 24 * 3600.0
_WIDTH = 110
_MOST_SHOWN = 3
_NO_NETWORK = "not checked: no network"

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """What a question found where nothing failed. `warning` is worth knowing, `fix` what to do about it."""

    found: str
    value: Any = None
    warning: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Question:
    """One check. `ask` raises a `FineTuneError` where it fails; `limit_seconds` is how long it may take."""

    name: str
    ask: Callable[[], Finding]
    limit_seconds: float = NETWORK_SECONDS


@dataclass(frozen=True)
class Answer:
    """What a question came to. `value` is that of its finding; `error` what a run that cannot go on raises."""

    check: Check
    value: Any = None
    error: FineTuneError | None = None


class NotCheckedError(Exception):
    """Raised by a question that cannot be answered and is no failure; says why."""


class Shared(Generic[T]):
    """A value that several questions need, worked out by whoever asks first; the others wait for it.

    `name` is that of the question whose failure it is when it cannot be worked out.
    """

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self.name = name
        self._work = work
        self._lock = threading.Lock()
        self._outcome: tuple[T | None, BaseException | None] | None = None

    def own(self) -> T:
        """Return the value, for the question that it belongs to; raises what working it out raised."""
        with self._lock:
            if self._outcome is None:
                try:
                    self._outcome = (self._work(), None)
                except BaseException as error:
                    self._outcome = (None, error)
        value, fault = self._outcome
        if fault is not None:
            raise fault
        return value  # type: ignore[return-value]

    def needed(self) -> T:
        """Return the value, for another question.

        Raises:
            NotCheckedError: there is none, which is its own question's failure and not this one's.
        """
        try:
            return self.own()
        except NotCheckedError:
            raise
        except UnreachableError:
            raise NotCheckedError(f"no network (needs `{self.name}`)") from None
        except Exception:
            raise NotCheckedError(f"needs `{self.name}`") from None


def answer(questions: Sequence[Question]) -> list[Answer]:
    """Ask all questions side by side, each in a thread of its own, and return their answers in the order given.

    Each thread sees the caller's context (contextvars). One that does not answer in time is reported so, and left: it
    is a daemon, and ends with the process.
    """
    found: list[Answer | None] = [None] * len(questions)

    def ask(position: int) -> None:
        found[position] = _answer(questions[position])

    began = time.monotonic()
    threads = []
    for position, question in enumerate(questions):
        run = contextvars.copy_context().run
        threads.append(threading.Thread(target=run, args=(ask, position), name=question.name, daemon=True))
        threads[-1].start()
    for thread, question in zip(threads, questions, strict=True):
        thread.join(max(0.0, began + question.limit_seconds - time.monotonic()))
    return [each or _late(question) for each, question in zip(list(found), questions, strict=True)]


def _answer(question: Question) -> Answer:
    try:
        finding = question.ask()
    except UnreachableError as error:
        first, fix = _in_two(error)
        return Answer(_check(question, "not checked", f"{_NO_NETWORK}: {first}", fix), error=error)
    except FineTuneError as error:
        return Answer(_check(question, "failed", *_in_two(error)), error=error)
    except NotCheckedError as reason:
        return Answer(_check(question, "not checked", f"not checked: {reason}"))
    except Exception as fault:
        log.exception("the check `%s` itself failed", question.name)
        failure = FineTuneError(
            f"the check `{question.name}` itself failed ({type(fault).__name__})\n"
            "this is a fault of the project, not of the config; the log has its traceback"
        )
        return Answer(_check(question, "failed", *_in_two(failure)), error=failure)
    if finding.warning:
        return Answer(_check(question, "warning", finding.warning, finding.fix), finding.value)
    return Answer(_check(question, "ok", finding.found, finding.fix), finding.value)


def _late(question: Question) -> Answer:
    said = f"{question.name}: no answer within {question.limit_seconds:g} s"
    fix = "look at the network between this machine and what is asked, or try again later"
    check = _check(question, "not checked", f"not checked: no answer within {question.limit_seconds:g} s", fix)
    return Answer(check, error=UnreachableError(f"{said}\n{fix}"))


def _check(question: Question, result: CheckResult, found: str, fix: str = "") -> Check:
    return Check(name=question.name, result=result, found=found, fix=fix)


def _in_two(error: FineTuneError) -> tuple[str, str]:
    """Return what an error found, and its fix: the last line, or what follows the last `; `."""
    lines = str(error).splitlines() or [type(error).__name__]
    if lines[1:]:
        return "\n".join(lines[:-1]), lines[-1]
    found, mark, fix = lines[0].rpartition("; ")
    return (found, fix) if mark else (lines[0], "")


def value_of(answers: Sequence[Answer], name: str, default: Any = None) -> Any:
    """Return the value of the answer called `name`; `default` where it was not asked, or has none."""
    return next((each.value for each in answers if each.check.name == name and each.value is not None), default)


def fail_together(answers: Sequence[Answer], needs_network: bool) -> None:
    """Raise what stops a run: one error as it is, several as one.

    With `needs_network`, what could not be reached stops it too.

    Raises:
        FineTuneError: the only failure, of its own class and in its own words; of several a `ConfigError` that has a
            line of each of the first three, and how many more there are.
    """
    errors = [
        (each.check.name, each.error)
        for each in answers
        if each.error is not None and (needs_network or not isinstance(each.error, UnreachableError))
    ]
    if not errors:
        return
    if len(errors) == 1:
        raise errors[0][1]
    lines = [f"{name}: {str(error).splitlines()[0]}" for name, error in errors[:_MOST_SHOWN]]
    if len(errors) > _MOST_SHOWN:
        lines.append(f"(and {len(errors) - _MOST_SHOWN} more)")
    raise ConfigError("\n".join([f"{len(errors)} checks failed before anything was started", *lines]))


def text_table(checks: Sequence[Check]) -> str:
    """Return the checks as plain text for a terminal: check, result, found, and beneath it what to do."""
    names = max([len("check"), *(len(each.name) for each in checks)])
    results = max([len("result"), *(len(each.result) for each in checks)])
    indent = " " * (names + results + 4)
    lines = [f"{'check':<{names}}  {'result':<{results}}  found"]
    for each in checks:
        found = _wrapped(each.found, len(indent)) or [""]
        lines.append(f"{each.name:<{names}}  {each.result:<{results}}  {found[0]}".rstrip())
        lines += [indent + line for line in found[1:]]
        if each.fix and each.result != "ok":
            lines += [indent + "  " + line for line in _wrapped(f"-> {each.fix}", len(indent) + 2)]
    return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
    # paths and addresses stay whole: they are copied from the table
    width = max(30, _WIDTH - indent)
    settings = {"break_long_words": False, "break_on_hyphens": False}
    return [line for part in text.splitlines() for line in textwrap.wrap(part, width, **settings)]  # type: ignore[arg-type]
