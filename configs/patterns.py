"""Regular expressions that a user writes: read as Python reads them, and run with a limit of time.

Python's own `re` cannot be stopped: `(a|aa)+$` takes years on a line of 100 characters. So patterns are run by the
package regex, which can, and which reads Python's syntax and more; what `re` does not read, or reads otherwise, is
refused.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

from configs.printable import one_line

LIMIT_SECONDS = 1.0
"""Time limit of one pattern on one text, in seconds of this process's CPU time; a usual one takes microseconds."""
_LONGEST = 2000
_MOST_REPEATS = 10**6
_REPEATS = re.compile(r"(?<!\\)\{(\d*)(?:,(\d*))?\}")
# regex matches `(?:name){e<=1}` with one error; to `re` the braces are characters
_FUZZY = re.compile(r"(?<!\\)\{\s*[a-z]")


def compiled(pattern: str) -> Any:
    """Return a pattern of the package regex; its methods take `timeout` in seconds, and then raise `TimeoutError`.

    Raises:
        ValueError: it is no regular expression, or is too long; in words that follow the pattern.
    """
    import regex

    if len(pattern) > _LONGEST:
        raise ValueError(f"has {len(pattern)} characters, and the most are {_LONGEST}; shorten it")
    repeats = [max(int(number or 1) for number in found.groups("")) for found in _REPEATS.finditer(pattern)]
    if prod(max(count, 1) for count in repeats) > _MOST_REPEATS:
        # regex would take gigabytes, also for ((a{1000}){1000}){1000}
        raise ValueError(f"has counts of repeats whose product is above {_MOST_REPEATS:,}; lower them")
    if _FUZZY.search(pattern):
        raise ValueError("has a brace before a letter; write \\{ for the character")
    try:
        re.compile(pattern)
        return regex.compile(pattern)
    except (re.error, regex.error, OverflowError) as error:
        raise ValueError(f"is not a regular expression: {one_line(error)}") from None
    except RecursionError:
        raise ValueError("is nested too deeply; write it flatter") from None
