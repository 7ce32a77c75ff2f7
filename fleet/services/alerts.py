"""Telling operators: an alert is raised once for each subject, told to staff, and closed when it is over."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import translation
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Alert, AlertRule, Server, Silence

from .alert_delivery import queue_deliveries, queue_end
from .alert_words import wording

HUSH = timedelta(hours=24)
"""What an operator resolved while its cause lasts is not raised again for so long."""

LONGEST_MESSAGE = 2000


def raise_alert(
    kind: Alert.Kind,
    *,
    severity: Alert.Severity,
    subject: str,
    server: Server | None = None,
    rule: AlertRule | None = None,
    **params: Any,
) -> Alert:
    """Raise it and tell every operator, unless one of that kind and subject is open: then word that one anew.

    One that was resolved by hand stays resolved for 24 hours, or until `resolve_alert` says that its cause was gone;
    that resolved alert is returned. `params` fill the words of the kind, a `code` of `fleet.words` its reason;
    `server` and `rule` are named in them by themselves.
    """
    named = {name: row.name for name, row in (("server", server), ("rule", rule)) if row is not None}
    kept = {name: str(value) for name, value in (named | params).items()}
    of_this = Alert.objects.filter(alert_type=kind, subject=subject)
    with transaction.atomic():
        # The open one is looked for first: whoever resolves it by hand meanwhile is then seen by the second look.
        if not of_this.filter(resolved=False).exists() and (seen_to := of_this.filter(_hushed()).first()):
            return seen_to
        alert, is_new = Alert.objects.get_or_create(
            alert_type=kind,
            subject=subject,
            resolved=False,
            defaults={"severity": severity, "server": server, "rule": rule, "params": kept, "message": ""},
        )
        if alert.params != kept or is_new:
            alert.params = kept
            with translation.override("en"):
                alert.message = wording(alert)
            alert.save(update_fields=["params", "message"])
        if is_new:
            queue_deliveries(alert)
    return alert


def send_alert(*, severity: Alert.Severity, message: str, server: Server | None = None, actor: User) -> Alert:
    """Tell every operator something by hand; open until somebody resolves it.

    Raises PortalError when there is no text, or more than 2,000 characters of it.
    """
    text = message.strip()
    if not text or len(text) > LONGEST_MESSAGE:
        said = _("An alert needs a text of at most %(limit)s characters.") % {"limit": LONGEST_MESSAGE}
        raise PortalError(said, code="invalid_input", status=422)
    with transaction.atomic():
        subject = f"by-hand:{uuid.uuid4()}"
        alert = raise_alert(Alert.Kind.MANUAL, severity=severity, subject=subject, server=server, text=text)
        record(actor=actor, event="alert.sent", target=alert, severity=severity)
    return alert


def lasting(kind: Alert.Kind) -> QuerySet[Alert]:
    """Alerts whose cause is not known to be gone: open ones, and those an operator has resolved since yesterday."""
    return Alert.objects.filter(Q(resolved=False) | _hushed(), alert_type=kind)


def resolve_alert(kind: Alert.Kind, *, subject: str) -> None:
    """Its cause is gone; the channels that were told of it are told so. Resolving what is not open is fine.

    Of an alert that was resolved by hand this moves the end, so that its next cause is told at once.
    """
    if not lasting(kind).filter(subject=subject).exists():
        return
    with transaction.atomic():
        over = list(Alert.objects.select_for_update().filter(alert_type=kind, subject=subject, resolved=False))
        lasting(kind).filter(subject=subject).update(resolved=True, resolved_at=now())
        for alert in over:
            queue_end(alert)


def resolve_by_hand(*, alert_id: int, actor: User) -> None:
    """An operator has seen to it. Once more is fine. While its cause lasts it is not raised again for 24 hours."""
    moment = now()
    with transaction.atomic():
        resolved = Alert.objects.filter(pk=alert_id, resolved=False).update(
            resolved=True, resolved_at=moment, acknowledged_at=moment, acknowledged_by=actor
        )
        if resolved:
            record(actor=actor, event="alert.resolved", target=Alert.objects.get(pk=alert_id))


def acknowledge(*, alert_id: int, actor: User) -> None:
    """An operator looks into it: reminders end. Once more is fine, and so is one that is over."""
    with transaction.atomic():
        acknowledged = Alert.objects.filter(pk=alert_id, resolved=False, acknowledged_at=None).update(
            acknowledged_at=now(), acknowledged_by=actor
        )
        if acknowledged:
            record(actor=actor, event="alert.acknowledged", target=Alert.objects.get(pk=alert_id))


def silence(*, kind: str, server: Server | None, minutes: int, note: str, actor: User) -> Silence:
    """Keep alerts of that kind ("" = every kind), or of that server, from telling anybody, from now on."""
    with transaction.atomic():
        moment = now()
        made = Silence.objects.create(
            alert_type=kind,
            server=server,
            starts_at=moment,
            ends_at=moment + timedelta(minutes=minutes),
            note=note,
        )
        record(actor=actor, event="silence.added", target=made, alert_type=kind, server=server and server.pk)
    return made


def _hushed() -> Q:
    """Resolved by hand, and its cause not known to be gone: what resolves by itself was acknowledged before, if ever.

    The moments are equal when an operator resolved it; `resolve_alert` moves the second one on.
    """
    return Q(resolved=True, resolved_at__gt=now() - HUSH, acknowledged_at__gte=F("resolved_at"))
