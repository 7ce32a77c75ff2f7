"""The sweeps of who earns, as beat sends them. Each is safe to run twice, and two at once."""

from __future__ import annotations

from celery import shared_task

from resellers import services
from resellers.services.checking import check_and_tell


@shared_task
def read_signups() -> None:
    """Read by whose link people signed up."""
    services.read_signups()


@shared_task
def accrue() -> None:
    """Commissions of what was paid, and of what was given back."""
    services.accrue()


@shared_task
def note_lease_contacts() -> None:
    """Whose customers the owners of leases are."""
    services.note_lease_contacts()


@shared_task
def run_months() -> None:
    """Run the months that are over."""
    services.run_months()


@shared_task
def send_statements() -> None:
    """Mail new settlements."""
    services.send_statements()


@shared_task
def check_commissions() -> None:
    """Compare commissions with the books, and tell when they differ."""
    check_and_tell()
