"""Waking the loop early. Nothing depends on it: sweeps find the same work a little later."""

from __future__ import annotations

from django.db import transaction


def wake_evacuation(evacuation_id: int) -> None:
    """Go on with that evacuation soon after the transaction commits."""
    from fleet import tasks

    transaction.on_commit(lambda: tasks.carry_on_evacuation.delay(evacuation_id), robust=True)


def wake_server(server_id: int | None) -> None:
    """Reconcile that server soon after the transaction commits; with None, look for places for waiting relays."""
    from fleet import tasks

    def send() -> None:
        if server_id is None:
            tasks.place_waiting.delay()
        else:
            tasks.reconcile_server.delay(server_id)

    # robust: a dead broker must not fail a request whose work is already committed.
    transaction.on_commit(send, robust=True)
