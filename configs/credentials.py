"""What is secret in a text beside its addresses: headers, tokens, passwords by name, and users without a scheme.

Ordinary text, code and templates hold colons, at signs, question marks and names such as `token` too. So each rule asks
for more than one sign of a credential, such as a host with a dot, or a parameter's name from signed addresses.
"""

from __future__ import annotations

import re
from base64 import b64decode

HIDDEN = "***"
"""Stands where a secret was, or an address of which no part is known to be harmless."""

TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|hf_[A-Za-z0-9]{30,}|\bapi_org_[A-Za-z0-9]{20,}|\bgh[pousr]_[A-Za-z0-9]{30,}"
    r"|\bgithub_pat_\w{20,}\b|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+"
)
"""Tokens that are known by their form: of hubs, GitHub and AWS, and JSON web tokens."""

# a value in quotes, as Python and JSON write it, also within another text: `\"` closes what `\"` opens
_QUOTED = r"(?P<quote>\\*[\"'])(?:(?!(?<!\\)(?P=quote))[^\r\n])*"
_PARAMETER = r"[\w-]+=(?:\"[^\"\r\n]*\"|[^\s,;\"']+)"
_SCHEME = (
    r"(?:bearer|basic|digest|token|api-?key|key|negotiate|ntlm|kerberos|sharedkey(?:lite)?|hawk|oauth|dpop|mac|vapid"
    r"|googlelogin|sso-key|privatetoken|aws4-hmac-sha256|hmac[\w-]*|scram-[\w-]+)"
)
# any other capital word before what looks like a credential
_OTHER_SCHEME = r"(?-i:[A-Z][\w-]{1,40})(?=\s+(?:[\w-]{1,60}=\"|[^\s\"',;]{0,200}[\d=]))"
_HEADER_NAME = r"(?:authorization|x-[\w-]{0,60}(?:key|token|secret)|api-key|private-token|set-cookie)"
_HEADER = re.compile(
    rf"(?i)(?P<name>\b{_HEADER_NAME}(?:\\*[\"']\s*[:=,]|\s*[:=])\s*[\[(]?\s*(?:b(?=\\*[\"']))?)"
    rf"(?:{_QUOTED}|(?!\*\*\*)(?:{_SCHEME}\s+|{_OTHER_SCHEME}\s+)?(?:{_PARAMETER}(?:\s*,\s*{_PARAMETER})*|[^\s\"',;]+))"
)
_BEARER = re.compile(r"\b([Bb]earer|BEARER)\s+(?!\*\*\*)([\w.~+/=-]{8,})")
_BASIC = re.compile(r"\b([Bb]asic|BASIC)\s+([A-Za-z0-9+/]{4,}={0,2})(?![\w-])")
_LONG_WORD = 20
_SHORTEST_PASSWORD = 4

_SECRET_NAMES = (
    r"(?:(?i:x-(?:amz|goog|ms)-[\w-]+|sig|signature|credential|password|passwd|pwd|secret|token"
    r"|(?:access|auth|id|refresh|sas|session|security|hub|hf)[_-]?token|api[_-]?key|secret[_-]?access[_-]?key"
    r"|client[_-]?secret|AccountKey|SharedAccessSignature|AWSAccessKeyId)"
    r"|[A-Z0-9_]*(?:TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY))"
)
# `token=None` and `password=%s` are code, and `MAX_TOKEN=5` is a number
_NO_SECRET = (
    r"(?!\*\*\*|(?:(?i:none|null|true|false)|\?|%s|%\(\w+\)s|\{[\w.]*\}|\$\{?\w+\}?|<[^<>\s]*>|\[[A-Z]+\]|(?:[A-Za-z_]\w{0,60}\.){0,4}(?P=name)"
    r"|(?<=(?i:token)=)[\d.]{1,8})(?![^\s\"'),;&\]}\\]))"
)
_NAMED_SECRET = re.compile(
    rf"(?<![\w-])(?P<name>{_SECRET_NAMES})(?P<joint>=|(?:\\*[\"']\])?\s?=\s?(?=\\*[\"']))"
    rf"(?:(?P<quote>\\*[\"']){_NO_SECRET}(?:(?!(?<!\\)(?P=quote))[^\r\n])+|(?!\\*[\"']){_NO_SECRET}[^\s\"'&,;<>]+)"
)
_NAMED_IN_DICT = re.compile(
    r"(?i)(?P<before>(?P<quote>\\*[\"'])(?:password|passwd|pwd|secret|api[_-]?key|secret[_-]?access[_-]?key"
    r"|client[_-]?secret|(?:access|auth|id|refresh|sas|session|security|hub|hf)[_-]?token|token)(?P=quote)\s*:\s*b?"
    r"(?P<opened>\\*[\"']))(?!\*\*\*|<)(?:(?!(?<!\\)(?P=opened))[^\s]){6,}(?=(?P=opened))"
)

# without a scheme: `user:password@host`, `user@host:path` (`name:7`, a row's id, and `image@sha256:` are none), and the
# queries of libraries that name only the path of an address
_LABELS = re.compile(r"(?i:mailto|contact|e-?mail|mail|from|to|cc|bcc|by|author|sips?|xmpp|acct|embedded)")
_FILE = re.compile(r"[\w.-]{1,99}\.(?:jsonl?|csv|tsv|parquet|arrow|txt|ya?ml|py|md|gz|zst)\b")
_DOTTED = r"(?:\[[0-9A-Fa-f:.]+\]|\d{1,3}(?:\.\d{1,3}){3}|(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w.]*\()"
_DOTTED_HOST = re.compile(_DOTTED)
_HOST_WITH_PORT = re.compile(r"[\w.-]{1,99}:\d{2,5}\b|localhost[:/]")
_HOST_WITH_PATH = re.compile(r"[\w-]{1,63}/")
_HOST = rf"(?:{_DOTTED}|localhost|[\w.-]{{1,99}}(?=:\d{{2,5}}\b))"
_USER_WITH_PASSWORD = re.compile(r"(?<![\w/])([\w.+%-]{1,256}):([^\s@\"'<>]{1,512})@(?!sha256:)")
_USER_AFTER_SLASHES = re.compile(rf"(?<![\w:/\\.])(\\?/\\?/)[^\s\"'<>/]{{1,512}}@(?={_HOST}|[\w.-]+/)")
_USER_OF_SCP = re.compile(
    r"(?<![\w/:])[\w.+%-]{1,256}@(?!sha256:)(?=(?:[\w-]{1,63}\.){1,8}[\w-]+:[^\s\d:]|[\w.-]{1,99}:[\w.~-]*/)"
)
_SIGNED = (
    r"(?i:x-(?:amz|goog|ms|oss)-[\w-]+|sig|signature|(?:[a-z]+[_-])?token|credential|password|passwd|pwd|secret"
    r"|(?:api|access)[_-]?key(?:id)?|AWSAccessKeyId|GoogleAccessId|key-pair-id)"
)
_QUERY = re.compile(rf"\?(?=(?:[\w.~%$+=:/@-]{{0,2000}}[&;])*{_SIGNED}=)[^\s\"'<>]*")
_LONGEST_PATH = 2000


def without_credentials(text: str) -> str:
    """Return a text between addresses without what is secret there."""
    text = _HEADER.sub(_hidden_header, text)
    text = _BEARER.sub(lambda found: f"{found[1]} {HIDDEN}" if _is_bearer(found[2]) else found[0], text)
    text = _BASIC.sub(lambda found: f"{found[1]} {HIDDEN}" if _is_basic(found[2]) else found[0], text)
    text = _QUERY.sub(lambda found: "" if _is_after_path(found.string, found.start()) else found[0], text)
    text = _NAMED_SECRET.sub(_hidden, text)
    text = _NAMED_IN_DICT.sub(rf"\g<before>{HIDDEN}", text)
    text = TOKEN.sub(HIDDEN, text)
    if "@" not in text:
        return text
    text = _USER_AFTER_SLASHES.sub(r"\1", text)
    text = _USER_WITH_PASSWORD.sub(lambda found: "" if _is_user_with_password(found) else found[0], text)
    return _USER_OF_SCP.sub("", text)


def _hidden_header(found: re.Match[str]) -> str:
    return f"{found['name']}{found['quote'] or ''}{HIDDEN}"


def _hidden(found: re.Match[str]) -> str:
    return f"{found['name']}{found['joint']}{found['quote'] or ''}{HIDDEN}"


def _is_user_with_password(found: re.Match[str]) -> bool:
    """Return whether `name:word@` stands before a host, and not before an operand or the rest of a mail's address."""
    user, password, text, end = found[1], found[2], found.string, found.end()
    if _LABELS.fullmatch(user):
        return False
    if _HOST_WITH_PORT.match(text, end):
        return re.search("[A-Za-z]", user) is not None
    if _DOTTED_HOST.match(text, end):
        return len(password) >= _SHORTEST_PASSWORD and not _FILE.match(text, end)
    is_mixed = re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[^/]{8,}", password) is not None
    return is_mixed and _HOST_WITH_PATH.match(text, end) is not None


def _is_bearer(word: str) -> bool:
    """Return whether what follows `Bearer` is a token, and not the next word of a sentence."""
    return bool(re.search(r"[\d=_]|[a-z][A-Z]|[A-Z]{2}", word)) or len(word) >= _LONG_WORD


def _is_basic(word: str) -> bool:
    """Return whether what follows `Basic` is base64 of a user and a password, and not a word such as `training1`."""
    if word.endswith("=") or all(re.search(kind, word) for kind in ("[a-z]", "[A-Z]", r"\d")):
        return True
    decoded = b64decode(word[: len(word) // 4 * 4])
    return b":" in decoded and all(0x20 <= byte < 0x7F for byte in decoded)


def _is_after_path(text: str, position: int) -> bool:
    """Return whether the word that ends at `position` has a slash, as the path of an address has."""
    word = re.split(r"[\s\"'<>]", text[max(0, position - _LONGEST_PATH) : position])[-1]
    return "/" in word
