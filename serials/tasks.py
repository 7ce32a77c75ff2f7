"""The sweeps of what was granted, as beat sends them."""

from __future__ import annotations

from celery import shared_task

from serials import services


@shared_task
def sweep_leases() -> None:
    """Move leases along: credits first, so that a lease that is owed time is not ended."""
    services.compensate_outages()
    services.advance_terms()
    services.expire_leases()
    services.release_ended_leases()


@shared_task
def sweep_serials() -> None:
    """Expire serials."""
    services.expire_serials()


@shared_task
def send_reminders() -> None:
    """Remind of leases that end soon."""
    services.send_reminders()
