"""Asking containers for their counters, many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from derp_portal.lib.clock import now
from fleet.derp.errors import RelayFailure
from fleet.derp.varz import read_varz
from fleet.models import Relay

from .counting import Counters

THREADS = 16
TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Question:
    """One container to be asked, and how its meter stood (`read_at`) when that was decided."""

    relay: Relay
    generation: int
    server_id: int
    ip: str
    port: int
    stood_at: datetime | None


@dataclass(frozen=True, slots=True)
class Reading:
    """The answer: counters, or the code of what went wrong. `at` is when the question was sent."""

    question: Question
    at: datetime
    counters: Counters | None = None
    error: str = ""


def ask(questions: Sequence[Question], *, timeout: float = TIMEOUT_SECONDS) -> list[Reading]:
    """One reading for each question, in their order. Touches no database but for what the relays carry already."""
    return [reading for part in ask_in_parts(questions, len(questions), timeout=timeout) for reading in part]


def ask_in_parts(
    questions: Sequence[Question], size: int, *, timeout: float = TIMEOUT_SECONDS
) -> Iterator[list[Reading]]:
    """The same, so many readings at a time: while the caller keeps one part the next is being asked for."""
    if not questions:
        return
    with ThreadPoolExecutor(min(THREADS, len(questions)), thread_name_prefix="meter") as pool:
        answers = pool.map(lambda question: _ask_one(question, timeout), questions)
        while part := list(islice(answers, size)):
            yield part


def _ask_one(question: Question, timeout: float) -> Reading:
    moment, relay = now(), question.relay
    try:
        varz = read_varz(
            ip=question.ip,
            port=question.port,
            host_name=relay.host_name,
            pin=relay.pin,
            debug_key=relay.debug_key,
            timeout=timeout,
        )
    except RelayFailure as failure:
        return Reading(question, moment, error=failure.code)
    except ValueError:
        # Its key cannot be decrypted; others' can.
        return Reading(question, moment, error="secret_unreadable")
    return Reading(question, moment, Counters(varz.started_at, varz.bytes_received, varz.bytes_sent))
