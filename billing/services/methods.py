"""Payment methods: which are offered, and the gateway behind one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import record
from billing import gateways
from billing.gateways.base import Gateway
from billing.gateways.sandbox import SandboxGateway
from billing.models import PaymentMethod

SANDBOX = "test"
ADDRESSES = frozenset({"api_base", "api_url", "base_url", "gateway_url"})
"""Settings that say whom a gateway speaks to."""
SANDBOX_KIND = SandboxGateway.kind


def gateway_of(method: PaymentMethod) -> Gateway:
    """The gateway that the method has been set up with. Raises ValueError for settings that cannot work."""
    try:
        return gateways.make(method.kind, method.settings)
    except KeyError as error:
        raise ValueError(f"unknown gateway {method.kind}") from error


def settings_of(method: PaymentMethod) -> dict[str, str]:
    """The method's settings. They hold secrets."""
    kept = json.loads(method.settings or "{}")
    return {str(name): str(value) for name, value in kept.items()}


def offered_methods(currency: str = "") -> QuerySet[PaymentMethod]:
    """What customers may choose from, in order."""
    found = PaymentMethod.objects.filter(is_enabled=True)
    return found.filter(currency=currency) if currency else found


def notify_url(method: PaymentMethod) -> str:
    """Where the method's gateway calls back."""
    return f"{settings.PUBLIC_URL}{reverse('gateway_callback', args=[method.code])}"


def save_method(
    *, method: PaymentMethod, values: Mapping[str, str], actor: User | None, changed: list[str] | None = None
) -> PaymentMethod:
    """Keep the method with these settings of its gateway. An empty secret keeps the one it has.

    Raises ValidationError, in words, for settings that cannot work, and for a currency that the gateway does not take.
    """
    kind = gateways.KINDS.get(method.kind)
    if kind is None or (method.kind == SANDBOX_KIND and not settings.TEST_GATEWAY):
        raise ValidationError({"kind": _("Choose a gateway.")})
    kept = settings_of(method) if method.pk else {}
    _check_secrets_stay(kind, kept, values)
    merged = {}
    for field in kind.fields:
        value = values.get(field.name, "").strip()
        merged[field.name] = value or (kept.get(field.name, "") if field.is_secret else "")
        if field.is_required and not merged[field.name]:
            raise ValidationError(_("“%(field)s” is needed.") % {"field": field.label})
    if kind.currencies and method.currency not in kind.currencies:
        raise ValidationError({"currency": _("This gateway does not take that currency.")})
    try:
        kind(merged)
    except ValueError as error:
        raise ValidationError(str(error)) from error
    with transaction.atomic():
        method.settings = json.dumps(merged, sort_keys=True)
        is_new = method.pk is None
        method.save()
        event = "paymentmethod.added" if is_new else "paymentmethod.changed"
        record(actor=actor, event=event, target=method, fields=sorted(changed or []))
    return method


def _check_secrets_stay(kind: type[Gateway], kept: Mapping[str, str], values: Mapping[str, str]) -> None:
    """Where the secrets are sent to does not change without them: else whoever changes the address could read them."""
    is_elsewhere = any(
        field.name in kept and values.get(field.name, "").strip() != kept[field.name]
        for field in kind.fields
        if field.name in ADDRESSES
    )
    is_kept = any(field.is_secret and kept.get(field.name) and not values.get(field.name) for field in kind.fields)
    if is_elsewhere and is_kept:
        raise ValidationError(_("To change the gateway's address, enter its secrets again."))


def ensure_sandbox() -> PaymentMethod | None:
    """The test gateway, on the embedded default only, so that a trial portal can sell at once."""
    if not settings.EMBEDDED:
        return None
    method, _is_new = PaymentMethod.objects.get_or_create(
        code=SANDBOX,
        defaults={
            "kind": "sandbox",
            "name": "Test payment",
            "name_zh": "测试付款",
            "position": 99,
            "settings": json.dumps({"key": secrets.token_hex(24)}),
        },
    )
    return method
