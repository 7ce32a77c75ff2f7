"""Ask the portal's door whether a client may use this relay."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass

import httpx

from fleet.derp.keys import format_node_key

_SECONDS = 5.0
_MAX_ANSWER = 4 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Door:
    """Where to ask, and what silence means. An empty URL lets everybody in, as in derper."""

    url: str
    fail_open: bool

    async def admits(self, node_key: bytes, source: str) -> bool:
        """Say whether this client may enter. Never raises, and takes at most five seconds.

        Only an unreachable door fails open; every answer that is not a clear yes is a no, a proxy's 502 included.
        """
        if not self.url:
            return True
        question = {"NodePublic": format_node_key(node_key), "Source": source}
        try:
            async with asyncio.timeout(_SECONDS):
                status, answer = await self._ask(question)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            log.warning("the door cannot be reached (%s): %s", error, "letting in" if self.fail_open else "refusing")
            return self.fail_open
        return status == httpx.codes.OK and _is_yes(answer)

    async def _ask(self, question: dict[str, str]) -> tuple[int, bytes]:
        # A fresh connection each time: an idle one that the portal's restart has cut would read as an unreachable door.
        async with (
            httpx.AsyncClient(timeout=_SECONDS, follow_redirects=True) as client,
            client.stream("POST", self.url, json=question) as response,
        ):
            answer = b""
            async for chunk in response.aiter_bytes():
                answer += chunk
                if len(answer) >= _MAX_ANSWER:
                    break
            return response.status_code, answer[:_MAX_ANSWER]


def _is_yes(answer: bytes) -> bool:
    try:
        body = json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return isinstance(body, dict) and body.get("Allow") is True
