"""Telling operators: an alert is raised once for each subject, mailed to staff, and closed when it is over."""

from __future__ import annotations

from typing import Any

from django.db import transaction
from django.utils import translation
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import language_of, notify, record
from derp_portal.lib.clock import now
from fleet.models import Alert, Server
from fleet.words import trouble

Kind = Alert.Kind

WORDS: dict[str, Promise] = {
    Kind.SERVER_LOST: _("Server %(server)s has not answered since %(since)s; its relays are being moved."),
    Kind.NO_ROOM: _("%(count)s relays find no place: add a server, or raise how many relays one may carry."),
    Kind.ROLLOUT_STOPPED: _("The roll-out of %(image)s has stopped: %(reason)s"),
    Kind.PROVIDER_RENEWAL: _("Server %(server)s must be renewed with %(provider)s by %(date)s."),
    Kind.ALLOWANCE: _("Server %(server)s has used %(percent)s %% of its monthly traffic; its relays move away."),
    Kind.FOREIGN_HOST: _("Server %(server)s cannot be used: %(reason)s"),
    Kind.CERTIFICATE_ENDS: _("The certificate for server %(server)s ends on %(date)s."),
}


def wording(alert: Alert) -> str:
    """What the alert says, in the reader's language."""
    words = WORDS.get(alert.alert_type)
    params = dict(alert.params)
    if "code" in params:
        params["reason"] = trouble(params["code"])
    return str(words) % params if words else alert.message


def raise_alert(
    kind: Alert.Kind, *, severity: Alert.Severity, subject: str, server: Server | None = None, **params: Any
) -> Alert:
    """Raise it and mail every administrator, unless one of that kind and subject is open: then word that one anew.

    `params` fill the words of the kind, a `code` of `fleet.words` its reason; `server` is named in them by itself.
    """
    named = {"server": server.name} if server else {}
    kept = {name: str(value) for name, value in (named | params).items()}
    with transaction.atomic():
        alert, is_new = Alert.objects.get_or_create(
            alert_type=kind,
            subject=subject,
            resolved=False,
            defaults={"severity": severity, "server": server, "params": kept, "message": ""},
        )
        if alert.params != kept or is_new:
            alert.params = kept
            with translation.override("en"):
                alert.message = wording(alert)
            alert.save(update_fields=["params", "message"])
        if is_new:
            _tell_staff(alert)
    return alert


def _tell_staff(alert: Alert) -> None:
    for person in User.objects.filter(is_active=True, role=User.Role.ADMIN).exclude(email=""):
        with translation.override(language_of(person)):
            message = wording(alert)
        notify(
            kind="alert",
            dedup_key=f"alert:{alert.pk}:{person.pk}",
            user=person,
            context={"alert": alert, "message": message},
            button_url=f"/admin/fleet/alert/{alert.pk}/change/",
        )


def resolve_alert(kind: Alert.Kind, *, subject: str) -> None:
    """It is over. Resolving what is not open is fine."""
    Alert.objects.filter(alert_type=kind, subject=subject, resolved=False).update(resolved=True, resolved_at=now())


def resolve_by_hand(*, alert_id: int, actor: User) -> None:
    """An operator has seen to it. Once more is fine."""
    with transaction.atomic():
        if Alert.objects.filter(pk=alert_id, resolved=False).update(resolved=True, resolved_at=now()):
            record(actor=actor, event="alert.resolved", target=Alert.objects.get(pk=alert_id))
