"""The other side of the test gateway: its books, and the callbacks it owes.

It behaves as the real ones do: its callbacks are signed when they are sent, come late, come again until they are
taken, come twice even then, and may overtake one another. Its books are its own; the portal only ever asks them.
"""

from __future__ import annotations

import json
import random
import secrets
from datetime import timedelta
from typing import Any

import httpx
import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F

from billing.gateways import sandbox as gateway
from billing.gateways.base import CallbackRefused, Outcome
from billing.models import PaymentMethod, SandboxCallback, SandboxCharge
from billing.services.methods import gateway_of
from derp_portal.lib.clock import now

log = structlog.get_logger(__name__)

RETRY_AFTER = [timedelta(seconds=seconds) for seconds in (4, 10, 30, 120, 600, 3600)]
BATCH = 50
State = SandboxCharge.State


def charge_of(query: dict[str, str]) -> SandboxCharge:
    """The charge that a signed link to the cashier asks for; made at the first visit. Raises CallbackRefused."""
    if not settings.TEST_GATEWAY:
        raise CallbackRefused("unsupported")
    for method in PaymentMethod.objects.filter(kind=gateway.SandboxGateway.kind):
        side = gateway_of(method)
        assert isinstance(side, gateway.SandboxGateway)
        try:
            asked = side.asked(query)
        except CallbackRefused:
            continue  # Another method's key may have signed it.
        charge, _is_new = SandboxCharge.objects.get_or_create(
            reference=asked["reference"],
            defaults={
                "method": method,
                "amount": int(asked["amount"]),
                "currency": asked["currency"],
                "subject": asked["subject"][:200],
                "notify_url": asked["notify_url"],
                "return_url": asked["return_url"],
            },
        )
        return charge
    raise CallbackRefused("bad_signature")


def pay(*, charge_id: int, amount: int | None = None, tells: bool = True, payer: str = "") -> SandboxCharge:
    """The payer pays (so much, else all of it), and callbacks are owed: late, twice, the first perhaps overtaken.

    `payer` is the account that the gateway says it was.

    `tells` False keeps quiet, as gateways sometimes do: the portal must ask. Paying twice pays once.
    """
    with transaction.atomic():
        charge = SandboxCharge.objects.select_for_update().get(pk=charge_id)
        if charge.state != State.OPEN:
            return charge
        charge.state, charge.paid_at = State.PAID, now()
        charge.paid_amount = charge.amount if amount is None else amount
        charge.transaction_id = f"sandbox{secrets.token_hex(8)}"
        charge.payer = payer[:64]
        charge.save(update_fields=["state", "paid_at", "paid_amount", "transaction_id", "payer"])
        if tells:
            _owe(charge, _said(charge), after=random.uniform(0.2, 2.0))
            _owe(charge, _said(charge), after=random.uniform(3.0, 8.0))
            # Written before the payment, arrives after it.
            _owe(charge, {"reference": charge.reference, "outcome": Outcome.PENDING}, after=random.uniform(0.5, 4.0))
    return charge


def decline(*, charge_id: int) -> SandboxCharge:
    """The payer gives up, and the gateway says so."""
    with transaction.atomic():
        charge = SandboxCharge.objects.select_for_update().get(pk=charge_id)
        if charge.state == State.OPEN:
            charge.state = State.CLOSED
            charge.save(update_fields=["state"])
            _owe(charge, _said(charge), after=random.uniform(0.2, 1.0))
    return charge


def said_of(reference: str) -> dict[str, Any]:
    """What the books say of a charge. One nobody has opened yet is simply not paid."""
    charge = SandboxCharge.objects.filter(reference=reference).first()
    return _said(charge) if charge else {"reference": reference, "outcome": Outcome.PENDING}


def close(reference: str) -> bool:
    """Let it not be paid any more; False if it was paid already."""
    SandboxCharge.objects.filter(reference=reference, state=State.OPEN).update(state=State.CLOSED)
    return not SandboxCharge.objects.filter(reference=reference, state=State.PAID).exists()


def give_back(reference: str, refund_reference: str, amount: int) -> bool:
    """Give so much back, once for each `refund_reference`; False where that would be more than was paid."""
    with transaction.atomic():
        charge = SandboxCharge.objects.select_for_update().filter(reference=reference, state=State.PAID).first()
        if charge is None:
            return False
        if refund_reference not in charge.refunded:
            if sum(charge.refunded.values()) + amount > charge.paid_amount:
                return False
            charge.refunded = {**charge.refunded, refund_reference: amount}
            charge.save(update_fields=["refunded"])
    return True


def send_callbacks() -> int:
    """Send the callbacks that are due; the number that was taken."""
    due = SandboxCallback.objects.filter(taken_at=None, due_at__lte=now(), attempts__lte=len(RETRY_AFTER))
    return sum(_send(callback) for callback in due.select_related("charge__method").order_by("due_at", "id")[:BATCH])


def _send(callback: SandboxCallback) -> bool:
    pause = RETRY_AFTER[min(callback.attempts, len(RETRY_AFTER) - 1)]
    claimed = SandboxCallback.objects.filter(pk=callback.pk, attempts=callback.attempts).update(
        attempts=F("attempts") + 1, due_at=now() + pause
    )
    if not claimed:
        return False
    side = gateway_of(callback.charge.method)
    assert isinstance(side, gateway.SandboxGateway)
    headers = {gateway.SIGNATURE: side.sign(callback.body, now()), "Content-Type": "application/json"}
    try:
        answer = httpx.post(
            callback.charge.notify_url, content=callback.body, headers=headers, timeout=10, trust_env=False
        )
    except httpx.HTTPError as error:
        log.warning("sandbox_callback_not_sent", reference=callback.charge.reference, error=repr(error))
        return False
    is_taken = answer.status_code == 200 and answer.text == "ok"
    if is_taken:
        SandboxCallback.objects.filter(pk=callback.pk).update(taken_at=now())
    return is_taken


def _owe(charge: SandboxCharge, said: dict[str, Any], *, after: float) -> None:
    from billing.tasks import send_sandbox_callbacks  # Tasks call this module; only this wake-up calls back.

    SandboxCallback.objects.create(charge=charge, body=json.dumps(said), due_at=now() + timedelta(seconds=after))
    transaction.on_commit(lambda: send_sandbox_callbacks.apply_async(countdown=after + 0.05), robust=True)


def _said(charge: SandboxCharge) -> dict[str, Any]:
    if charge.state != State.PAID:
        outcome = Outcome.PENDING if charge.state == State.OPEN else Outcome.CLOSED
        return {"reference": charge.reference, "outcome": outcome}
    assert charge.paid_at is not None
    return {
        "reference": charge.reference,
        "outcome": Outcome.PAID,
        "transaction_id": charge.transaction_id,
        "amount": charge.paid_amount,
        "currency": charge.currency,
        "paid_at": charge.paid_at.isoformat(),
        "payer": charge.payer,
    }
