"""Asks a model behind an OpenAI-compatible endpoint: many questions at once, within a budget of calls.

Whatever goes wrong with one question becomes a reply with an error, which the caller counts. Only what is wrong for all
of them ends the run: a key or a model that the server does not accept.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from configs.addresses import shown_address
from configs.errors import ConfigError
from tasks.endpoints.cache import AnswerCache, request_key
from tasks.endpoints.messages import ChatRequest, Reply, read_completion
from tasks.models.pace import say

MOST_TRIES = 4
"""Most requests for one question; one that goes again without a parameter is not counted among them."""
MOST_FAILED_IN_A_ROW = 10
BUSY = "the server's error 429"
STAYED_BUSY = "not asked, as the server stayed busy"
NOT_ASKED = f"not asked, after {MOST_FAILED_IN_A_ROW} questions in a row without an answer"
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Waits:
    """Times in seconds."""

    first_pause: float = 1.0
    """Before the second try; each further pause is twice as long, and up to half of each is left out by chance."""
    longest_pause: float = 30.0
    """The longest pause between two tries, also where the server asks for a longer one."""
    longest_busy: float = 300.0
    """While a server says that it is busy, and answers nothing: then the rest is not asked."""
    first_line: float = 5.0
    """Until a line says how far the questions are; each further line after twice as long."""


class Endpoint:
    """A model at an endpoint. `num_calls` are the HTTP requests sent so far: the budget `max_calls` is for all of them.

    `setting` is the config path of the address, and `key_sources` says where the key is looked for, for messages.
    """

    def __init__(
        self,
        address: str,
        model: str,
        key: str | None,
        *,
        max_calls: int,
        concurrency: int,
        timeout_seconds: float,
        cache: AnswerCache | None = None,
        setting: str = "evaluate.judge.endpoint",
        key_sources: str = "the Flyte secret judge/api_key, or $JUDGE_API_KEY",
        waits: Waits | None = None,
    ) -> None:
        if key and not (key.strip().isascii() and key.strip().isprintable()):
            # the client's own error would quote it
            raise ConfigError(f"the key for {setting} holds characters that no HTTP header can; copy it again")
        self.address, self.model = address, model
        self.max_calls, self.num_calls = max_calls, 0
        self._key, self._cache, self._setting, self._key_sources = key, cache, setting, key_sources
        self._concurrency, self._timeout_seconds = concurrency, timeout_seconds
        self._waits = waits or Waits()
        self._left_out: set[str] = set()
        self._failed_in_a_row = 0
        self._busy_since: float | None = None

    def ask(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """Return a reply to each request, in their order; a reply with an `error` says why there is none.

        Requests that are equal, `repeat` included, are sent once. Failed tries are repeated up to 4 times: time-outs,
        broken connections and the statuses 408, 409, 425, 429 and 5xx. All of them count as calls. The rest is not
        asked when the calls are spent, when 10 questions in a row had no answer, or when a server was busy (429) for 5
        minutes and answered nothing. A refusal of one question (400, 413, 422) says nothing of the next.

        Raises:
            ConfigError: the server refuses the key (401, 403), knows no such model or path (404), or redirects.
        """
        keys = [request_key(self.address, self.model, request) for request in requests]
        first = dict(zip(reversed(keys), reversed(requests), strict=True))
        replies = {key: reply for key in first if self._cache and (reply := self._cache.get(key)) is not None}
        missing = {key: first[key] for key in dict.fromkeys(keys) if key not in replies}
        if missing:
            _run(self._ask_all(missing, replies))
        return [replies[key] for key in keys]

    async def _ask_all(self, missing: dict[str, ChatRequest], replies: dict[str, Reply]) -> None:
        # not with the other imports: it takes half a second
        from tasks.endpoints.sending import Sender

        self._failed_in_a_row, self._busy_since = 0, None
        goal = len(replies) + len(missing)
        async with Sender(self.address, self._key, self._timeout_seconds, self._setting, self._key_sources) as sender:
            left = iter(missing.items())
            tasks = [
                asyncio.create_task(self._work(sender, left, replies))
                for _ in range(min(self._concurrency, len(missing)))
            ]
            lines = asyncio.create_task(self._say_how_far(replies, goal))
            try:
                await asyncio.gather(*tasks)
            finally:
                for task in (*tasks, lines):
                    task.cancel()
                await asyncio.gather(*tasks, lines, return_exceptions=True)

    async def _work(self, sender: Any, left: Iterator[tuple[str, ChatRequest]], replies: dict[str, Reply]) -> None:
        for key, request in left:
            reply = await self._answer(sender, request)
            if not reply.error and self._cache:
                self._cache.put(key, reply)
            replies[key] = reply

    async def _answer(self, sender: Any, request: ChatRequest) -> Reply:
        """Return the reply to one request, after as many tries as it takes, and note what it says of the server."""
        from tasks.endpoints.sending import RefusedParametersError, TryFailedError

        num_failed = 0
        while True:
            if self.num_calls >= self.max_calls:
                return Reply(error=f"budget of {self.max_calls:,} calls spent")
            if self._failed_in_a_row >= MOST_FAILED_IN_A_ROW:
                return Reply(error=NOT_ASKED)
            if self._stayed_busy():
                return Reply(error=STAYED_BUSY)
            self.num_calls += 1
            body = self._body(request)
            try:
                reply = read_completion(await sender.send(body))
                self._failed_in_a_row, self._busy_since = self._failed_in_a_row + 1 if reply.error else 0, None
                return reply
            except RefusedParametersError as refused:
                names = [name for name in refused.names if name in body]
                if not names:
                    return Reply(error="the server's error 400")
                self._leave_out(names)
            except TryFailedError as failure:
                num_failed += 1
                if failure.reason != BUSY:
                    self._busy_since = None
                elif self._busy_since is None:
                    self._busy_since = time.monotonic()
                if not failure.may_try_again or num_failed >= MOST_TRIES:
                    # a server that is busy, or refuses one question, is there
                    is_there = failure.reason == BUSY or failure.is_of_the_question
                    self._failed_in_a_row += not is_there
                    return Reply(error=failure.reason)
                await asyncio.sleep(self._pause(num_failed, failure.wait_seconds))

    def _stayed_busy(self) -> bool:
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._waits.longest_busy

    def _pause(self, num_failed: int, asked_seconds: float | None) -> float:
        own = self._waits.first_pause * 2 ** (num_failed - 1) * random.uniform(0.5, 1.0)
        return min(self._waits.longest_pause, own if asked_seconds is None else max(own, asked_seconds))

    def _body(self, request: ChatRequest) -> dict[str, Any]:
        body = request.body(self.model)
        if "max_tokens" in self._left_out:
            # the name that OpenAI's reasoning models know
            body["max_completion_tokens"] = body["max_tokens"]
        return {name: value for name, value in body.items() if name not in self._left_out}

    def _leave_out(self, names: Sequence[str]) -> None:
        if set(names) <= self._left_out:
            return
        self._left_out |= set(names)
        instead = "asked with max_completion_tokens" if "max_tokens" in names else "asked without"
        say(f"{shown_address(self.address)} does not know {' and '.join(sorted(names))}; {instead}", "endpoint")

    async def _say_how_far(self, replies: dict[str, Reply], goal: int) -> None:
        pause = self._waits.first_line
        while True:
            await asyncio.sleep(pause)
            num_failed = sum(bool(reply.error) for reply in replies.values())
            failed = f", {num_failed:,} of them failed" if num_failed else ""
            done = f"{len(replies):,}/{goal:,} questions to {shown_address(self.address)}"
            say(f"{done}{failed}; {self.num_calls:,} of at most {self.max_calls:,} calls", "endpoint")
            pause *= 2


def _run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Return the result of asynchronous work, also where the caller's thread has an event loop that runs."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
