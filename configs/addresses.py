"""Addresses as they may be shown and published: without user, password, query and fragment, which may be secrets.

All functions take a whole address or path, or a longer text with any number of them, such as a library's message.
Where a text can be read in two ways, the reading that shows less is taken.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import quote, unquote

from configs.credentials import HIDDEN, TOKEN, without_credentials
from configs.printable import one_line, printable

# `:\/\/` is JSON's; `https%3A%2F%2F` is an address within another; `https:/` is what pathlib makes of an address
_SLASHED = r"(?P<slashed>[A-Za-z][A-Za-z0-9+.-]{1,40}):\\?/\\?/"
_ENCODED = r"(?P<encoded>[A-Za-z][A-Za-z0-9+.-]{1,40})(?::|%(?:25)*3[Aa])(?:\\?/|%(?:25)*2[Ff]){2}"
_COLLAPSED = r"(?P<collapsed>(?:https?|s?ftps?|ssh|s3a?|gc?s|abfss?|az|wasbs?|hf|hdfs|postgres(?:ql)?|git)):/(?!/)"
_START = re.compile(f"(?:{_SLASHED}|{_ENCODED}|(?i:{_COLLAPSED}))")
_BEFORE_AN_ADDRESS = tuple(" \t\r\n\"'`<>()[]{}|,;")
_EXTRA_SLASHES = re.compile(r"(?:\\?/)*")
# `file:///home` is a path; elsewhere a third slash hides the server from a reader of two
_WITHOUT_SERVERS = ("file", "hdfs", "local", "memory", "sqlite")
_END = re.compile(r"[\s\"'`<>]")
_AT = re.compile(r"@|%(?:25)*40")
_MARK = re.compile(r"[?#]|%(?:25)*(?:3[Ff]|23)(?=[\w.~$-]{1,80}(?:=|%(?:25)*3[Dd]))")
# what is secret in a setting that is data: a user, or a parameter with a value
_OPENED = re.compile(r":/+[^\s/?#\\]{1,512}@|[?&#][\w.~%$-]{1,80}=[^\s\"'`<>&]")
_LONGEST_SCHEME = 100
_MOST_NESTED = 10
# the rest of a user or a password, up to its @
_IN_USER = re.compile(r"[^\s\"'`<>/]{0,512}@")
_QUOTES = "\"'`"
_COLON = re.compile(r":|%(?:25)*3[Aa]")
# what libraries of stores read as a name, and not as a query: `s3://bucket/a?.csv` is a glob
_STORES: tuple[str, ...] = ("s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "az", "adl", "wasb", "wasbs")
_STORES += ("hf", "hdfs", "file", "local", "memory")
_NAME_AFTER_MARK = re.compile(r"|[/?*.\[][^=&]*|[^=&]*\.[A-Za-z0-9]{1,7}(?:\.(?:gz|zst))?")
# in their addresses the container stands where others have the user
_WITH_CONTAINERS = ("abfs", "abfss", "wasb", "wasbs")
_CONTAINER = re.compile(r"(?:\$?[a-z0-9](?:-?[a-z0-9]){2,62})@(?=[^@:]*$)")

_SECRET_NAME = re.compile(
    r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CONNECTION_STRING|(?:API|ACCESS|ACCOUNT|SECRET|PRIVATE)_KEY)S?$",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 12

_LOCAL = re.compile(r"(?:~|\.{1,2}(?=[/\\])|[A-Za-z]:[\\/]|/|\\\\)")
_LOCAL_IN_TEXT = re.compile(
    r"(?<![\w.~:/\\@*%-])(?:~[\w.-]*|\.{1,2})?/(?:[^\s/\"'`<>,;|]+/)+(?=[^\s/\"'`<>,;|])"
    r"|(?<!\w)(?:[A-Za-z]:|\\)\\+(?:[^\s\\\"'`<>,;|]+\\+)+(?=[^\s\\\"'`<>,;|])"
)


def shown_address(address: object) -> str:
    """Return one address or path for a log, an error or a Deck, on one line, as `shown_text`."""
    return one_line(shown_text(str(address)))


def shown_text(text: str) -> str:
    """Return a text of any lines for a log, an error or a Deck: its addresses without user, password, query, fragment.

    Paths of this machine stay. Authorization headers, tokens that are known by their form, and values of names such as
    `password=` are hidden too. In a store's address a `?` that is part of a name or a glob stays.
    """
    return _shown(text, without_credentials)


def shown_data(text: str) -> str:
    """Return a setting that is data, such as a separator or a pattern, as it is but for addresses and known tokens.

    An address loses user, password, query and fragment if it has a user or a parameter: a pattern such as
    `http://(.+)#(.*)` has none.
    """
    return _shown(text, lambda between: TOKEN.sub(HIDDEN, between), is_data=True)


def public_address(text: str) -> str:
    """Return `text` for what leaves this machine: as `shown_text`, with local folders cut to their last part.

    A path of two parts without a dot before it stays: it has the form of a hub's id.
    """
    shown = shown_text(text)
    if re.match(r"file:/", shown, re.IGNORECASE) or _is_local_path(shown):
        return last_part(shown)
    shown = re.sub(r"(?i)\bfile:\\?/\\?/*(?=[^\s\"'`<>])", "/", shown)
    return _LOCAL_IN_TEXT.sub("", shown)


def last_part(address: str) -> str:
    """Return the name of the file or folder at one address or path, as `shown_text`; a server has none."""
    shown = shown_text(address)
    path = shown.rstrip("/\\")
    scheme = _START.match(path)
    if scheme is not None and not re.search(r"[/\\]", path[scheme.end() :]):
        return path
    separators = r"[/\\]" if _LOCAL.match(shown) or "/" not in shown else "/"
    return re.split(separators, path)[-1] or shown


def without_secrets(text: str) -> str:
    """Return `text` as `shown_text`, also without the values of environment variables that are named as secrets.

    It is printable, with its line breaks.
    """
    for value in secrets_of_environment():
        text = text.replace(value, HIDDEN)
    return printable(shown_text(text))


def first_line(error: BaseException | str, longest: int = 200) -> str:
    """Return the first line of another library's or server's message, printable and `without_secrets`.

    It may quote an address or a header. Of an empty error it is the error's class.
    """
    lines = str(error).strip().splitlines()
    if not lines:
        return "" if isinstance(error, str) else type(error).__name__
    # cut at the end only: half a token would not be known as one
    return one_line(without_secrets(lines[0])[:longest])


def secrets_of_environment() -> list[str]:
    """Return the values of environment variables that are named as secrets, longest first."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return sorted((value for value in found if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


def _shown(text: str, between: Callable[[str], str], is_data: bool = False) -> str:
    """Return `text` with its addresses as they are shown, and what stands between them as `between` returns it."""
    pieces, position = [], 0
    # a value of its own, in which nothing but the next address ends this one
    is_value = not is_data and re.search(r"\s", text) is None
    ends = [0, *(end.end() for end in _END.finditer(text))]
    starts = [start for start in _START.finditer(text) if _is_separate(text, start.start(), ends)]
    for number, start in enumerate(starts):
        if start.start() < position:
            continue
        limit = starts[number + 1].start() if number + 1 < len(starts) else len(text)
        end = _end_of(text, start.end(), limit, is_value)
        scheme = start["slashed"] or start["encoded"] or start["collapsed"]
        if start["encoded"]:
            decoded = _decoded(text[start.start() : end])
            # what decodes to no address is shown in no part
            shown = shown_text(decoded) if not _is_encoded(decoded) else f"{scheme}{HIDDEN}"
        elif is_data and not _OPENED.search(text, start.start(), end):
            shown = between(text[start.start() : end])
        else:
            head = start.end()
            if scheme.lower() not in _WITHOUT_SERVERS:
                head = _EXTRA_SLASHES.match(text, head, end).end()  # type: ignore[union-attr]
            shown = f"{text[start.start() : head]}{_without_user_and_query(scheme.lower(), text[head:end])}"
        pieces += [between(text[position : start.start()]), shown]
        position = end
    return "".join([*pieces, between(text[position:])])


def _is_separate(text: str, position: int, ends: list[int]) -> bool:
    """Return whether an address begins there, and is not part of the path or query of the one before.

    `ends` are the places after each mark that ends an address; `a::b` are two addresses, chained by fsspec.
    """
    if position == 0 or text[position - 1] in _BEFORE_AN_ADDRESS or text.endswith("::", 0, position):
        return True
    return _START.search(text, ends[bisect_right(ends, position) - 1], position) is None


def _end_of(text: str, start: int, limit: int, is_value: bool) -> int:
    """Return where the address ends whose scheme ends at `start`, and which ends at `limit` at the latest."""
    if is_value:
        return _without_separator(text, start, limit)
    end = _first_end(text, start, limit)
    if _has_half_a_password(text[start:end]):
        line = re.compile(r"[^\r\n]*").match(text, start, limit)
        at = line.group().rfind("@") if line else -1
        if at >= 0:
            match = _END.search(text, start + at, limit)
            end = match.start() if match else limit
    return _without_separator(text, start, end)


def _first_end(text: str, start: int, limit: int) -> int:
    """Return where an address within a longer text ends: at white space, or at a mark that is no part of it.

    A quote is a part if it begins the value of a query, or if more of the address follows and it opened nothing.
    """
    scheme = re.compile(r"[^\s\"'`<>]*$").search(text[max(0, start - _LONGEST_SCHEME) : start])
    opening = text[start - len(scheme[0]) - 1 : start - len(scheme[0])] if scheme else ""
    position = start
    while (found := _END.search(text, position, limit)) is not None:
        end, mark = found.start(), found[0]
        is_quote = mark in _QUOTES and mark != opening
        if is_quote and text.endswith("=", start, end):
            closing = re.compile(rf"[^\r\n{mark}]*{mark}").match(text, end + 1, limit)
            position = closing.end() if closing else end + 1
        elif (is_quote and re.match(r"[\w%@]", text[end + 1 : end + 2])) or _is_in_user(text, start, end, limit):
            position = end + 1
        else:
            return end
    return limit


def _is_in_user(text: str, start: int, position: int, limit: int) -> bool:
    """Return whether the < or > at `position` is part of a user or a password, since an @ follows it."""
    if text[position] not in "<>" or re.compile(r"[/?#]").search(text, start, position):
        return False
    return _IN_USER.match(text, position + 1, limit) is not None


def _without_separator(text: str, start: int, end: int) -> int:
    """Return `end` moved before the punctuation that joins an address to the next one, or ends a sentence."""
    return start + len(re.sub(r"(?:::|[),;:.\]}|\\]+)$", "", text[start:end]))


def _has_half_a_password(rest: str) -> bool:
    head = re.split(r"[/\\?#]", rest, maxsplit=1)[0]
    return not _AT.search(rest) and bool(_COLON.search(head)) and not _is_host_with_port(head)


def _is_host_with_port(head: str) -> bool:
    """Return whether what follows the scheme is a host, with a port or without."""
    # `https://host:port` stands for an address in messages
    return re.fullmatch(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]]*)(?::(?:\d{0,5}|(?i:port)))?", head) is not None


def _is_this_machine_or_number(head: str) -> bool:
    """Return whether the host is an IP address or localhost, which no user's name is."""
    host = re.sub(r":\d*$", "", head).strip("[]").partition("%")[0]
    try:
        ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return True


def _without_user_and_query(scheme: str, rest: str) -> str:
    """Return what follows `scheme://` without user information, query and fragment.

    A password may hold @, / and ?, so where there may be one, the host is what follows the last @.
    """
    head = re.split(r"[/\\?#]", rest, maxsplit=1)[0]
    container = _CONTAINER.match(head) if scheme in _WITH_CONTAINERS else None
    kept = ""
    if container is not None:
        kept, rest = container.group(), rest[container.end() :]
    elif _AT.search(head) or (_COLON.search(head) and "@" in rest and not _is_this_machine_or_number(head)):
        rest = _AT.split(rest)[-1]
    elif _has_half_a_password(rest):
        return HIDDEN
    mark = _MARK.search(rest)
    while mark is not None and scheme in _STORES and _NAME_AFTER_MARK.fullmatch(rest[mark.end() :]):
        mark = _MARK.search(rest, mark.end())
    rest = rest if mark is None else rest[: mark.start()]
    # an address may stand in the path of another; nobody writes more of them than this
    if sum(1 for _ in _START.finditer(rest)) > _MOST_NESTED:
        return HIDDEN
    return kept + _shown(rest, lambda path: TOKEN.sub(HIDDEN, path))


def _decoded(text: str) -> str:
    """Return a percent-encoded address as it was; encoded twice, it is decoded twice."""
    while (start := _START.match(text)) and start["encoded"]:
        # what was no end of the encoded address is none now
        decoded = _END.sub(lambda found: quote(found[0]), unquote(text))
        if decoded == text:
            break
        text = decoded
    return text


def _is_encoded(text: str) -> bool:
    start = _START.match(text)
    return start is not None and start["encoded"] is not None


def _is_local_path(text: str) -> bool:
    """Return whether a whole value is a path of a machine, and not the id of a model, which has one slash."""
    if _START.match(text) or "\n" in text:
        return False
    return _LOCAL.match(text) is not None or (text.count("/") > 1 and not re.search(r"\s", text))
