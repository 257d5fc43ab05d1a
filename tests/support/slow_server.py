"""A web server on loopback that accepts connections and then is slow, in the ways in which real ones are."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from typing import Literal

Manner = Literal["silent", "silent after the head", "dripping", "dripping the head", "steady"]
BYTES = 200_000


class SlowServer:
    """Answers each request in one manner. `url` is its address; `steady` sends 20,000 bytes each 0.1 s."""

    def __init__(self, manner: Manner, length: int = BYTES) -> None:
        self._manner, self._length = manner, length
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._has_ended = threading.Event()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> SlowServer:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._has_ended.set()
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        fields = ["HTTP/1.1 200 OK", "Content-Type: application/json", f"Content-Length: {self._length}"]
        head = "\r\n".join([*fields, "Connection: close", "", ""]).encode()
        with suppress(OSError):
            is_head = connection.recv(2**16).startswith(b"HEAD")
            if self._manner == "silent":
                return
            if self._manner == "dripping the head":
                self._drip(connection, head, 1)
                return
            connection.sendall(head)
            if self._manner == "silent after the head":
                return
            if not is_head:
                self._drip(connection, b" " * self._length, 20_000 if self._manner == "steady" else 1)
            connection.close()

    def _drip(self, connection: socket.socket, content: bytes, size: int) -> None:
        for start in range(0, len(content), size):
            if self._has_ended.is_set():
                return
            connection.sendall(content[start : start + size])
            time.sleep(0.1)
