"""A web server of the suite's own that keeps what alert channels post to it, and answers as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Listener:
    """What arrived so far; `status` is what it answers, `hold` makes every answer wait until it is set."""

    def __init__(self) -> None:
        self.arrived: list[dict[str, Any]] = []
        self.status = 200
        self.hold: threading.Event | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """For a channel; the path stands for a key. It is given time: four seconds are little on a busy machine."""
        return f"json://127.0.0.1:{self.port}/KeyThatNobodySees1?cto=60&rto=60"

    @property
    def texts(self) -> list[str]:
        """The messages that arrived."""
        return [str(message["message"]) for message in self.arrived]


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener on a free port of this machine."""
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if listener.hold is not None:
                listener.hold.wait(60)
            if listener.status == 200:
                listener.arrived.append(json.loads(body))
            self.send_response(listener.status)
            if 300 <= listener.status < 400:
                self.send_header("Location", f"http://127.0.0.1:{listener.port}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        if listener.hold is not None:
            listener.hold.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
