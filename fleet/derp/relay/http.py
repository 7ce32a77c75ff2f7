"""As much HTTP as a relay needs: one request per connection, short answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

MAX_HEAD = 16 * 1024


class BadRequest(ValueError):
    """The client does not speak HTTP."""


@dataclass(frozen=True, slots=True)
class Request:
    """Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read one request's head. Raises BadRequest, or asyncio.IncompleteReadError when the client hangs up."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise BadRequest("the head is too long") from error
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequest("not an HTTP/1 request")
    headers: dict[str, str] = {}
    for line in lines[1:-2]:
        name, separator, value = line.partition(":")
        if not separator:
            raise BadRequest("a header without a colon")
        headers[name.strip().lower()] = value.strip()
    # urlsplit and parse_qs raise ValueError, BadRequest's parent, on what is no URL.
    target = urlsplit(words[1])
    return Request(words[0], target.path, parse_qs(target.query), headers)


def response(status: HTTPStatus, body: str = "", *, content_type: str = "text/plain; charset=utf-8") -> bytes:
    """Return a whole answer, after which the connection ends."""
    payload = body.encode()
    head = [f"HTTP/1.1 {status.value} {status.phrase}", "Connection: close", "Cache-Control: no-store"]
    if status != HTTPStatus.NO_CONTENT:
        head += [f"Content-Type: {content_type}", f"Content-Length: {len(payload)}"]
    if status == HTTPStatus.OK:
        # Browser-based clients measure latency across origins.
        head.append("Access-Control-Allow-Origin: *")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + payload
