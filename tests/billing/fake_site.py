"""A web server of the suite's own that stands for a gateway: it keeps what it is asked, and answers as a test wants."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    path: str
    query: dict[str, str]
    form: dict[str, str]
    headers: dict[str, str]


Answer = tuple[int, Any]
"""A status, and text or what becomes JSON."""


@dataclass
class Site:
    """Answers with `answers`, or always with `broken` if there is that; silent as long as `hold` is not set."""

    answers: Callable[[Asked], Answer]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    broken: Answer | None = None
    hold: threading.Event | None = None


@contextmanager
def standing(answers: Callable[[Asked], Answer]) -> Iterator[Site]:
    """A site on a free port of this machine."""
    site = Site(answers)
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            asked = Asked(
                self.command,
                parts.path,
                dict(parse_qsl(parts.query)),
                dict(parse_qsl(self.rfile.read(size).decode())),
                {name.lower(): value for name, value in self.headers.items()},
            )
            site.asked.append(asked)
            if site.hold is not None:
                while not site.hold.wait(0.05) and not over.is_set():
                    pass
            status, body = site.broken or site.answers(asked)
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            if 300 <= status < 400:
                self.send_header("Location", f"{site.url}/elsewhere")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_arguments: Any) -> None:
            """Quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_arguments: Any) -> None:
            """Whoever asked was not patient enough."""

    server = Server(("127.0.0.1", 0), Handler)
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


_taken: list[socket.socket] = []


def nobody() -> str:
    """An address of this machine where nobody listens, nor will: its port stays taken as long as the suite runs."""
    if not _taken:
        _taken.append(socket.socket())
        _taken[0].bind(("127.0.0.1", 0))
    return f"http://127.0.0.1:{_taken[0].getsockname()[1]}"
