"""Values in Markdown, for cards and READMEs: as code, in which no tag, link, image or address is live.

Renderers differ in what they link by themselves, and a backslash does not stop all of them; within code none links.
"""

from __future__ import annotations

import re

from configs.printable import one_line, printable

_FENCE = "```"


def code(value: object) -> str:
    """Return a value on one line as code, also within a table: by longer fences than it holds, and without pipes.

    Renderers disagree on a backslash before a pipe, so a pipe is shown as `\\x7c`.
    """
    text = one_line(value).replace("|", r"\x7c").replace("<!--", r"\x3c!--")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    # a blank at both ends is taken away again, and keeps a fence apart from backticks of the text
    pad = " " if text[:1] in ("`", " ") or text[-1:] in ("`", " ") or not text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def fenced(text: str, language: str = "") -> str:
    """Return a text as a block of code; one with fences of its own gets a longer one."""
    shown, fence = printable(text), _FENCE
    while fence in shown:
        fence += "`"
    return f"{fence}{language}\n{shown}\n{fence}"
