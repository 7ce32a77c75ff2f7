"""Background work of this room: an id in, one service called."""

from __future__ import annotations

from celery import shared_task

from accounts import services


@shared_task
def deliver_notification(notification_id: int) -> None:
    """Send one message of the outbox, as soon as it was committed."""
    services.deliver(notification_id=notification_id)


@shared_task
def deliver_due() -> None:
    """The sweep: send what is due, whether or not anybody was told; and forget browsers, failures and sessions of
    long ago.
    """
    services.deliver_due()
    services.forget_browsers()
    services.forget_failures()
    services.forget_sessions()


@shared_task
def pass_on_tickets() -> None:
    """The sweep of tickets that nobody of the first line has answered."""
    services.pass_on_overdue()


@shared_task
def write_announcements() -> None:
    """The sweep of announcements that go by mail."""
    services.write_announcements()
