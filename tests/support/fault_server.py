"""A real HTTP server on 127.0.0.1 that misbehaves by script, for tests of what speaks to endpoints."""

from __future__ import annotations

import itertools
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Act:
    """What the server does with one request."""

    status: int = 200
    body: Any = None  # JSON object; bytes are sent as they are
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    until: threading.Event | None = None  # the reply waits for it
    cut: str = ""  # "before": no answer at all; "within": half a body, then a reset
    drip: float = 0.0  # seconds between two bytes of the body
    drip_headers: float = 0.0  # seconds between two headers, of which there is no end
    endless: bool = False  # the body again and again, as long as somebody listens


@dataclass
class Seen:
    """One request as the server saw it; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float


def chat_reply(text: str, finish: str = "stop", tokens: int = 1) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens},
    }


def plain_reply(text: str, finish: str = "stop", tokens: int = 1) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 1, "completion_tokens": tokens},
    }


class FaultServer:
    """`script`: acts taken one after the other; `answer(seen) -> Act` for the rest."""

    def __init__(self, script: list[Act] | None = None, answer: Callable[[Seen], Act] | None = None) -> None:
        self.script = list(script or [])
        self.answer = answer or (lambda seen: Act(body=chat_reply("fine")))
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._serve(self)

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FaultServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        seen = Seen(
            handler.path,
            {k.lower(): v for k, v in handler.headers.items()},
            json.loads(raw),
            time.monotonic(),
        )
        with self._lock:
            self.seen.append(seen)
            act = self.script.pop(0) if self.script else self.answer(seen)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        time.sleep(act.delay)
        if act.until is not None:
            act.until.wait(60)
        with self._lock:
            self._now -= 1
        self._send(handler, act)

    def _send(self, handler: BaseHTTPRequestHandler, act: Act) -> None:
        handler.close_connection = True
        if act.cut == "before":
            self._reset(handler)
            return
        body = act.body if isinstance(act.body, bytes) else json.dumps(act.body).encode()
        try:
            handler.send_response(act.status)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Connection", "close")  # or a client asks again on it while it closes
            if not act.endless:
                handler.send_header("Content-Length", str(len(body)))
            for name, value in act.headers.items():
                handler.send_header(name, value)
            if act.drip_headers:
                self._drip_headers(handler, act.drip_headers)
            handler.end_headers()
            for part in self._parts(act, body):
                handler.wfile.write(part)
                handler.wfile.flush()
            if act.cut:
                self._reset(handler)
        except OSError:
            pass  # the client went away: its right

    def _drip_headers(self, handler: BaseHTTPRequestHandler, seconds: float) -> None:
        while not self._closed.wait(seconds):
            handler.send_header("X-More", "to come")
            handler.flush_headers()

    def _parts(self, act: Act, body: bytes) -> Iterator[bytes]:
        if act.endless:
            yield from itertools.repeat(body)
        if not act.drip:
            yield body[: len(body) // 2] if act.cut else body
            return
        for byte in body:
            yield bytes([byte])
            if self._closed.wait(act.drip):
                return

    @staticmethod
    def _reset(handler: BaseHTTPRequestHandler) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
