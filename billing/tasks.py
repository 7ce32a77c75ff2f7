"""Thin tasks: an id in, one service called, safe to run twice. The sweeps are the truth; the rest wakes them early."""

from __future__ import annotations

from celery import shared_task

from billing import sandbox
from billing.finance.roll_up import check_roll_ups, roll_up_days
from billing.services import callbacks, channels, fulfilment, orders, payments, refund_sending
from billing.services.checking import check_and_tell


@shared_task
def deliver_order(order_id: int) -> None:
    """Deliver one paid order."""
    fulfilment.deliver(order_id=order_id)


@shared_task
def send_refund(refund_id: int) -> None:
    """Send one refund."""
    refund_sending.send(refund_id=refund_id)


@shared_task
def sweep_orders() -> None:
    """Deliver what is paid, give up what was not paid in time."""
    fulfilment.deliver_paid()
    orders.expire_orders()


@shared_task
def ask_gateways() -> None:
    """Ask about payments that nobody has called about."""
    payments.ask_gateways()


@shared_task
def send_refunds() -> None:
    """Send the refunds that are due."""
    refund_sending.send_due()


@shared_task
def send_sandbox_callbacks() -> None:
    """The test gateway's callbacks that are due."""
    sandbox.send_callbacks()


@shared_task
def watch_stock() -> None:
    """Tell of shops that run out of serials."""
    channels.watch_stock()


@shared_task
def roll_up() -> None:
    """Write the figures of finished days."""
    roll_up_days()


@shared_task
def check_books() -> None:
    """Compare the books with the documents and the figures, and tell when they differ."""
    check_and_tell(check_roll_ups)


@shared_task
def forget_callbacks() -> None:
    """Drop callbacks that have been kept for long enough."""
    callbacks.forget_callbacks()
