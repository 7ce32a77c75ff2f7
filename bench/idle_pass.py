"""A pass over 200 relays that all run as they should, against one bare listing of the engine."""

from __future__ import annotations

import time
from typing import Any

from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.models import User
from bench.activation import make_server
from bench.report import line, median_seconds
from derp_portal.lib.clock import days, now
from fleet.models import Relay, Server
from fleet.reconciler.loop import reconcile
from fleet.services import GroupTerms, create_group

RELAYS = 200
RUNS = 15


def measure(host: Any) -> None:
    """Create them for real, then measure passes that find nothing to do."""
    server = make_server("docker")
    user = User.objects.create(username="idle", email="idle@example.com")
    fill(server, user, 5, host)
    few = queries_of_a_pass(server, host)
    fill(server, user, RELAYS - 5, host)
    many = queries_of_a_pass(server, host)

    def bare() -> None:
        runtime = host.runtime()
        runtime.list(settings.PORTAL_ID)
        runtime.close()

    ours = median_seconds(lambda: one_pass(server, host) for _run in range(RUNS))
    baseline = median_seconds(bare for _run in range(RUNS))
    line(
        f"idle pass over {RELAYS} relays",
        ours,
        baseline,
        "bare engine listing",
        f"{many} queries, {few} for 5 relays",
    )


def fill(server: Server, user: User, number: int, host: Any) -> None:
    """Make that many groups of one relay and run them."""
    for _number in range(number):
        create_group(owner=user, label="", run_until=now() + days(1), terms=GroupTerms(), actor=None)
    deadline = time.monotonic() + 120
    waiting = Relay.objects.filter(server=server).exclude(observed_state=Relay.Observed.RUNNING)
    one_pass(server, host)
    while waiting.exists():
        # A port may be taken by somebody else on this machine; the relay gets another one and comes up then.
        if time.monotonic() > deadline:
            raise TimeoutError(f"{waiting.count()} relays never ran")
        time.sleep(1)
        one_pass(server, host)


def one_pass(server: Server, host: Any) -> None:
    reconcile(server.pk, runtime_for=lambda _server: host.runtime())


def queries_of_a_pass(server: Server, host: Any) -> int:
    """How many queries an idle pass makes."""
    with CaptureQueriesContext(connection) as captured:
        one_pass(server, host)
    return len(captured)
