"""A tiny real HTTP server that plays the portal's door for a relay under test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass(slots=True)
class Door:
    """Change `status`, `refused` or `answer` between questions. `asked` holds every question's body."""

    url: str = ""
    status: int = 200
    refused: set[str] = field(default_factory=set)
    answer: bytes | None = None
    asked: list[dict[str, str]] = field(default_factory=list)


@contextmanager
def open_door() -> Iterator[Door]:
    door = Door()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            door.asked.append(question)
            yes = json.dumps({"Allow": question["NodePublic"] not in door.refused}).encode()
            self.send_response(door.status)
            self.end_headers()
            self.wfile.write(yes if door.answer is None else door.answer)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test output quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    door.url = f"http://127.0.0.1:{server.server_port}/derp/admit"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
