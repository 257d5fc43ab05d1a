"""Bounds on what a chat template computes; run as a program, it renders conversations apart from the run.

Python can end a template's loops. It cannot end one operation in C, such as `9 ** 9 ** 9`, which blocks every thread
and every signal, so that such operations are refused before they begin, memory has a limit, and the first rendering is
done in a process that the kernel ends. This file imports nothing of the project, so that the process begins fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMORY_MIB = 768
"""What one rendering may take; a conversation that a model can be trained on takes less than a tenth."""
MOST_CHARACTERS = 2**26
TOO_MUCH = 3
"""The exit status of a process whose template took too much; the reason is its output."""
_MOST_BITS = 4096
_MOST_DIGITS = 300
_lock = threading.Lock()
_num_bounded = 0
_limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


class TooMuchError(Exception):
    """A template computes more than a chat template needs; the message says what, and holds no content."""


def use_bounded_templates() -> None:
    """Have transformers compile templates with bounds on `**`, `*` and `round`; a second call changes nothing.

    Jinja calls the sandbox for operators only where its class names them as a template is compiled. transformers takes
    the class from a module's global and gives no other way to choose it.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from transformers.utils import chat_template_utils

    if chat_template_utils.ImmutableSandboxedEnvironment is not ImmutableSandboxedEnvironment:
        return

    class BoundedEnvironment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset({"**", "*"})

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            jinja_round = self.filters["round"]

            def bounded_round(value: Any, precision: int = 0, method: Any = "common") -> Any:
                # it computes 10 ** precision
                if isinstance(precision, int) and abs(precision) > _MOST_DIGITS:
                    raise TooMuchError(f"numbers of more than {_MOST_DIGITS} digits")
                return jinja_round(value, precision, method)

            self.filters["round"] = bounded_round

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _check_operands(operator, left, right)
            return super().call_binop(context, operator, left, right)

    chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
    chat_template_utils._compile_jinja_template.cache_clear()


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        num_bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if num_bits > _MOST_BITS:
            raise TooMuchError(f"numbers of more than {_MOST_BITS} bits")
    elif operator == "*":
        count, repeated = (left, right) if isinstance(left, int) else (right, left)
        if isinstance(count, int) and hasattr(repeated, "__len__") and len(repeated) * count > MOST_CHARACTERS:
            raise TooMuchError(f"texts or lists of more than {MOST_CHARACTERS:,} elements")


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Within the block, let this process take `MEMORY_MIB` more than now (Linux only); blocks may overlap in threads.

    Raises:
        TooMuchError: the block takes more.
    """
    if sys.platform != "linux":
        yield
        return
    _begin_bound()
    try:
        yield
    except MemoryError:
        raise TooMuchError(f"more than {MEMORY_MIB} MiB of memory") from None
    finally:
        _end_bound()


def _begin_bound() -> None:
    global _num_bounded, _limits
    with _lock:
        if not _num_bounded:
            _limits = resource.getrlimit(resource.RLIMIT_AS)
            soft, hard = _limits
            num_pages = int(Path("/proc/self/statm").read_bytes().split()[0])
            most = num_pages * resource.getpagesize() + MEMORY_MIB * 2**20
            most = most if soft == resource.RLIM_INFINITY else min(soft, most)
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))
        _num_bounded += 1


def _end_bound() -> None:
    global _num_bounded
    with _lock:
        _num_bounded -= 1
        if not _num_bounded:
            resource.setrlimit(resource.RLIMIT_AS, _limits)


def _begin_in_child() -> None:
    """Lift the bound of the process that this one was forked from: its blocks do not end here."""
    global _lock, _num_bounded
    _lock = threading.Lock()
    if _num_bounded:
        _num_bounded = 0
        resource.setrlimit(resource.RLIMIT_AS, _limits)


os.register_at_fork(after_in_child=_begin_in_child)


def _render_apart() -> int:
    """Render the conversations on the standard input, and return the exit status; the kernel ends what takes long."""
    trial = json.load(sys.stdin)
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    failures = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)
    use_bounded_templates()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for conversation in trial["conversations"]:
        for asks in (False, True):
            signal.setitimer(signal.ITIMER_REAL, trial["seconds"])
            try:
                # what a template refuses, or fails on, is said where the run renders it
                with contextlib.suppress(*failures), bounded_memory():
                    render_jinja_template(
                        [conversation["turns"]],
                        tools=conversation["tools"],
                        chat_template=trial["template"],
                        add_generation_prompt=asks,
                        **trial["variables"],
                    )
            except TooMuchError as error:
                with open(sys.stdout.fileno(), "w", closefd=False) as answer:
                    answer.write(str(error))
                return TOO_MUCH
    return 0


if __name__ == "__main__":
    sys.exit(_render_apart())
