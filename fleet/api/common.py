"""What the operations of the fleet share: refusals, fields of servers, and a host's failures in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from ninja import Field, Schema

from accounts.apikit import Id, Ok
from derp_portal.lib.errors import PortalError
from fleet.runtimes.base import RuntimeFailure, Unavailable
from fleet.words import advice, trouble

REFUSALS = frozenset({401, 403, 404, 409, 422})
READ_REFUSALS = frozenset({401, 403, 404, 422})
HOST_REFUSALS = REFUSALS | {502}
"""Of operations that ask a host and wait for its answer."""

MOST_ROWS = 10_000
"""So far long lists are counted and paged; their filters reach the rest."""

PortNumber = Annotated[int, Field(ge=1024, le=65535)]


class ServerRef(Schema):
    """Names a server."""

    server_id: Id


class ServerAnswer(Ok):
    """The server the call was about."""

    server_id: int


@contextmanager
def host_failures_in_words() -> Iterator[None]:
    """What a host did wrong becomes an error for people: 502 when it could not be asked, 409 when it refused.

    `advice` is what an operator can do about it, `detail` what the engine or the network said.
    """
    try:
        yield
    except RuntimeFailure as failure:
        raise PortalError(
            trouble(failure.code),
            code=failure.code,
            status=502 if isinstance(failure, Unavailable) else 409,
            advice=advice(failure.code),
            detail=failure.detail,
        ) from failure
