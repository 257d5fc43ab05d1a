"""The Deck of a failed task: what failed, before all else that the task shows."""

from __future__ import annotations

from collections.abc import Sequence

from configs.errors import ConfigFault
from tasks.decks import html


def render_error(name: str, message: str, faults: Sequence[ConfigFault] = ()) -> str:
    """Return a deliberate error as HTML: its message, and a table of all `faults` if its config did not validate."""
    parts = [html.heading("This step failed", 1)]
    if faults:
        number = "1 setting is" if len(faults) == 1 else f"{len(faults)} settings are"
        rows = [(fault.path, fault.value, fault.rule) for fault in faults]
        parts += [
            html.paragraph(f"{name}: {number} wrong. Correct the form or the file, and start the run again.", "bad"),
            html.table(rows, ["setting", "value", "rule"]),
        ]
    else:
        first, *others = message.splitlines() or [""]
        parts += [html.paragraph(f"{name}: {first}", "bad"), *(html.paragraph(line) for line in others)]
    return "".join(parts)


def render_defect(name: str) -> str:
    """Return a page on an error that nobody has foreseen. Its text may quote rows, so only its class is shown."""
    return html.heading("This step failed", 1) + html.paragraph(
        f"{name}: a defect of the program, or of the platform. The task's log and its error in the console have the "
        "trace.",
        "bad",
    )
