"""An OpenAI-compatible server on loopback, which answers, or misbehaves, as a script says."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

Manner = Literal["hang", "close", "break off", "endless", "dripping"]


@dataclass(frozen=True)
class Said:
    """A chat completion."""

    text: str | None
    finish_reason: str = "stop"
    logprobs: list[dict[str, Any]] | None = None
    message: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the message, such as `refusal`."""

    def body(self) -> bytes:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self.text, **self.message},
            "finish_reason": self.finish_reason,
        }
        if self.logprobs is not None:
            choice["logprobs"] = {"content": self.logprobs}
        usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
        return json.dumps({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}).encode()


@dataclass(frozen=True)
class Raw:
    """Any answer: its status, headers, and body."""

    body: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Answer = Said | Raw | Manner
Script = Callable[["Asked"], Answer]


@dataclass(frozen=True)
class Asked:
    """A request: its number from 0, when it came, its headers (names in lower case) and its body."""

    number: int
    seconds: float
    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def texts(self) -> dict[str, str]:
        """The texts between marks, by name."""
        user = self.body["messages"][-1]["content"]
        return {
            found[1]: found[3] for found in re.finditer(r"\[begin ([^\]]+) (\w+)\]\n(.*?)\n\[end \1 \2\]", user, re.S)
        }


class JudgeServer:
    """Answers each request as `script` says. `address` is that of its API; `asked` are the requests so far."""

    def __init__(self, script: Script, work_seconds: float = 0.0) -> None:
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.num_sent = 0
        """Bytes of endless answers."""
        self._script, self._work_seconds = script, work_seconds
        self._num_open, self._lock, self._has_ended = 0, threading.Lock(), threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> JudgeServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                content = self.rfile.read(int(self.headers["Content-Length"]))
                with server._lock:
                    asked = Asked(len(server.asked), time.monotonic(), self.path, headers, json.loads(content))
                    server.asked.append(asked)
                    server._num_open += 1
                    server.most_at_once = max(server.most_at_once, server._num_open)
                time.sleep(server._work_seconds)
                answer = server._script(asked)
                with server._lock:
                    server._num_open -= 1
                with suppress(OSError):
                    self._send(answer)

            def _send(self, answer: Answer) -> None:
                if isinstance(answer, Said):
                    answer = Raw(answer.body(), headers={"Content-Type": "application/json"})
                if isinstance(answer, Raw):
                    self._head(answer.status, {**answer.headers, "Content-Length": str(len(answer.body))})
                    self.wfile.write(answer.body)
                    return
                self.close_connection = True
                if answer == "hang":
                    server._has_ended.wait(30)
                elif answer == "break off":
                    self._head(200, {"Content-Length": "1000"})
                    self.wfile.write(b'{"choices": [')
                elif answer == "endless":
                    self._head(200, {})
                    while not server._has_ended.is_set():
                        server.num_sent += self.wfile.write(b" " * 2**16)
                elif answer == "dripping":
                    self._head(200, {"Content-Length": "1000"})
                    while not server._has_ended.wait(0.02):
                        self.wfile.write(b" ")

            def _head(self, status: int, headers: Mapping[str, str]) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        return Handler
