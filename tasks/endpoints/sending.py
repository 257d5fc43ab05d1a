"""Sends one request to an OpenAI-compatible endpoint, once, within bounds of time and size.

The package `openai` writes the request. What it would read of the environment is kept back: its variables may hold
another server's key, organization or headers, so a request leaves with the headers of a list and with no other. A
redirect is not followed, since the key would go along. The body of a refusal is read to 16 KiB, only to see whether it
names a parameter that the server does not know, and is never shown: servers quote what they were sent.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from configs.addresses import shown_address
from configs.credentials import HIDDEN
from configs.errors import ConfigError
from tasks.endpoints.messages import MOST_BYTES

TIMED_OUT = "timed out"
NO_CONNECTION = "no connection, or one that broke"
TOO_LONG = f"an answer longer than {MOST_BYTES // 2**20} MiB"
FILTERED = "refused by the server's content filter"
COMPRESSED = "an answer that is compressed, unasked"
_AGAIN = (408, 409, 425, 429)
# the question is at fault, and the next one may not be
_OF_THE_QUESTION = (400, 413, 422)
# the last tells the package itself not to read the body
_HEADERS = ("host", "content-type", "content-length", "accept", "user-agent", "connection", "x-stainless-raw-response")
_OPTIONAL = {
    "max_tokens": ("max_tokens",),
    "temperature": ("temperature",),
    "logprobs": ("logprobs", "top_logprobs"),
    "top_logprobs": ("logprobs", "top_logprobs"),
}
"""Parameters that some models refuse, and which then go without: name in the refusal -> names in the request."""
_REFUSING = re.compile(
    r"unsupported|not support|n't support|unknown|unrecogni[sz]ed|not permitted|not allowed|not available",
    re.IGNORECASE,
)
# a server may know log-probabilities, but of fewer alternatives
_LIMIT = r"(?:greater than|less than|at most|must be|between|maximum|exceed|too large)"
_TOO_MANY = re.compile(rf"logprobs\b.{{0,80}}{_LIMIT}|{_LIMIT}.{{0,80}}logprobs\b", re.IGNORECASE | re.DOTALL)
_FILTER = re.compile(r"content_filter|content_policy_violation")
_REFUSAL_BYTES = 2**14
# a shorter one may be part of any text
_SHORTEST_KEY = 8


class TryFailedError(Exception):
    """One request got no answer that can be used; `reason` holds nothing that the server said.

    `is_of_the_question`: the server refuses this question, which says nothing of the others.
    """

    def __init__(
        self,
        reason: str,
        may_try_again: bool = False,
        wait_seconds: float | None = None,
        is_of_the_question: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason, self.may_try_again = reason, may_try_again
        self.is_of_the_question = is_of_the_question
        self.wait_seconds = wait_seconds
        """What the server asks to wait, `Retry-After`; None where it asks for nothing."""


class RefusedParametersError(Exception):
    """The server does not know parameters of the request, `names`; the request may go without them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__("parameters")
        self.names = names


class Sender:
    """An open client of one endpoint, for requests of one event loop.

    `setting` names the endpoint in errors, and `key_sources` where its key is looked for.
    """

    def __init__(
        self, address: str, key: str | None, timeout_seconds: float, setting: str, key_sources: str = ""
    ) -> None:
        self._address, self._setting, self._key_sources = address, setting, key_sources
        self._key = (key or "").strip()
        self._timeout_seconds = timeout_seconds
        hooks: dict[str, list[Any]] = {"request": [self._keep_headers], "response": [self._check]}
        http_client = httpx2.AsyncClient(timeout=timeout_seconds, follow_redirects=False, event_hooks=hooks)
        try:
            # the port is checked when it is asked for
            _ = urlsplit(address).port
            self._client = openai.AsyncOpenAI(
                # without a key of ours, the package would take that of its variable
                api_key=self._key or "none",
                base_url=address,
                max_retries=0,
                timeout=timeout_seconds,
                http_client=http_client,
            )
        except (httpx2.InvalidURL, ValueError):
            raise ConfigError(
                f"{setting}={shown_address(address)} is no address of a server; write it as https://host:port/v1"
            ) from None

    async def __aenter__(self) -> Sender:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def send(self, body: dict[str, Any]) -> bytes:
        """Return the body of the server's answer to a chat completion's request.

        Raises:
            TryFailedError: there was none within the time, or none that can be used.
            RefusedParametersError: the server does not know a parameter that the request can go without.
            ConfigError: the server refuses the key, knows no such model or path, or answers with a redirect.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds):
                content = await self._read(body)
        except (TimeoutError, openai.APITimeoutError, httpx2.TimeoutException):
            raise TryFailedError(TIMED_OUT, may_try_again=True) from None
        except (openai.APIConnectionError, httpx2.HTTPError, httpx2.StreamError, OSError, UnicodeError):
            raise TryFailedError(NO_CONNECTION, may_try_again=True) from None
        if len(self._key) >= _SHORTEST_KEY:
            # a server may send back what it was sent
            content = content.replace(self._key.encode(), HIDDEN.encode())
        return content

    async def _read(self, body: dict[str, Any]) -> bytes:
        completions = self._client.chat.completions.with_streaming_response
        content = bytearray()
        async with completions.create(**body) as response:
            async for piece in response.iter_bytes():
                content += piece
                if len(content) > MOST_BYTES:
                    raise TryFailedError(TOO_LONG)
        return bytes(content)

    async def _keep_headers(self, request: httpx2.Request) -> None:
        """Leave only the headers of the list in a request, and the key of this endpoint."""
        for name in list(request.headers):
            if name.lower() not in _HEADERS:
                del request.headers[name]
        request.headers["accept-encoding"] = "identity"
        if self._key:
            request.headers["authorization"] = f"Bearer {self._key}"

    async def _check(self, response: httpx2.Response) -> None:
        """Raise the error that an answer's head stands for; only then is a body read."""
        status = response.status_code
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in ("", "identity"):
            # a small body can become gigabytes
            raise TryFailedError(COMPRESSED)
        if 200 <= status < 300:
            return
        where = f"{self._setting}={shown_address(self._address)}"
        if 300 <= status < 400:
            place = shown_address(response.headers.get("location", ""))[:200]
            raise ConfigError(
                f"{where} redirects ({status}) to {place or 'no place'}, and a key is sent to no other address; "
                "write the final address"
            )
        if status in (401, 403):
            refused = "refuses the key" if self._key else "wants a key, and there is none"
            raise ConfigError(f"{where} {refused} ({status}); set {self._key_sources or 'its key'}")
        if status == 404:
            raise ConfigError(
                f"{where} has no such model, or no chat completions at this address (404); set the name of a model "
                "that is there, and an address such as https://host/v1"
            )
        if status in (400, 422):
            text = await _refusal(response)
            if _FILTER.search(text):
                raise TryFailedError(FILTERED, is_of_the_question=True)
            names = _refused_parameters(text)
            if names:
                raise RefusedParametersError(names)
        raise TryFailedError(
            f"the server's error {status}",
            status in _AGAIN or status >= 500,
            retry_after(response.headers.get("retry-after", "")),
            status in _OF_THE_QUESTION,
        )


def retry_after(text: str) -> float | None:
    """Return the seconds of a header `Retry-After`, a number or a date (RFC 9110, 10.2.3); None for any other text."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


async def _refusal(response: httpx2.Response) -> str:
    content = bytearray()
    async for piece in response.aiter_bytes():
        content += piece
        if len(content) > _REFUSAL_BYTES:
            break
    return content[:_REFUSAL_BYTES].decode("utf-8", "replace")


def _refused_parameters(text: str) -> tuple[str, ...]:
    if not _REFUSING.search(text):
        return _OPTIONAL["logprobs"] if _TOO_MANY.search(text) else ()
    # the first that is named is refused; "use max_completion_tokens instead" follows it
    named = re.search(rf"\b({'|'.join(_OPTIONAL)})\b", text)
    return _OPTIONAL[named[1]] if named else ()
