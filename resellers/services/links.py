"""Referral links: a signed reference in a cookie of ours, clicks by day, and what a sign-up's reference meant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils.crypto import constant_time_compare, salted_hmac

from accounts.models import User
from accounts.services import record, take_signup_ref
from billing.services import set_brought_by
from billing.services.ledger import today
from billing.services.pricing import person_of
from derp_portal.lib.clock import now
from resellers.models import Attribution, LinkDay, Reseller, Signup

from .people import refuse

log = structlog.get_logger(__name__)

SALT = "resellers.reference"
BATCH = 200
Verdict = Signup.Verdict


@dataclass(frozen=True, slots=True)
class Reference:
    """Whose link was opened, by the reseller's id (a link's code may change), and when."""

    reseller_id: int
    clicked_at: datetime


def reference_for(reseller: Reseller) -> str:
    """What the cookie of somebody who opens the link now holds: the reseller and the moment, signed."""
    body = f"{reseller.pk}.{int(now().timestamp())}"
    return f"{body}.{_sign(body)}"


def read_reference(text: str) -> Reference | None:
    """What a reference says; None for one that we have not written."""
    body, _dot, signature = text.rpartition(".")
    number, _dot, stamp = body.partition(".")
    if not all(part.isascii() and part.isdecimal() and len(part) <= 11 for part in (number, stamp)):
        return None
    if not constant_time_compare(signature, _sign(body)):
        return None
    return Reference(int(number), datetime.fromtimestamp(int(stamp), UTC))


def _sign(body: str) -> str:
    return salted_hmac(SALT, body, secret=settings.SECRET_KEY, algorithm="sha256").hexdigest()[:32]


def count_click(reseller: Reseller) -> None:
    """The link was opened once more today."""
    day = today()
    if not LinkDay.objects.filter(reseller=reseller, day=day).update(clicks=F("clicks") + 1):
        LinkDay.objects.get_or_create(reseller=reseller, day=day)
        LinkDay.objects.filter(reseller=reseller, day=day).update(clicks=F("clicks") + 1)


def read_signups() -> int:
    """Read the references of those who signed up with one. Returns how many."""
    due = User.objects.exclude(signup_ref="").filter(referral_signup=None).order_by("id")
    count = 0
    for user_id in list(due.values_list("id", flat=True)[:BATCH]):
        try:
            count += read_signup(user_id=user_id) is not None
        except Exception as error:
            log.error("signup_not_read", user=user_id, exc_info=error)
    return count


def read_signup(*, user_id: int) -> Signup | None:
    """Say once and for all what the user's reference meant, and whose customer they are. None if it was said before."""
    with transaction.atomic():
        text = take_signup_ref(user_id=user_id)
        user = User.objects.get(pk=user_id)
        if not text or Signup.objects.filter(user=user).exists():
            return None
        found = read_reference(text)
        reseller = (
            Reseller.objects.select_related("user", "level").filter(pk=found.reseller_id).first() if found else None
        )
        verdict = _verdict(user, found, reseller)
        signup = Signup.objects.create(
            user=user,
            reseller=reseller,
            verdict=verdict,
            clicked_at=found.clicked_at if found else None,
            created_at=user.created_at,
        )
        if verdict == Verdict.ATTRIBUTED and reseller:
            # Orders may have been paid before this was read: they count from the sign-up on.
            Attribution.objects.create(user=user, reseller=reseller, since=user.created_at, reason="link")
            set_brought_by(user_id=user.pk, by=reseller.user)
            record(actor=None, event="customer.attributed", target=user, reseller=reseller.code)
    return signup


def _verdict(user: User, found: Reference | None, reseller: Reseller | None) -> Signup.Verdict:
    if found is None or reseller is None:
        return Verdict.INVALID
    if user.created_at - found.clicked_at > timedelta(days=reseller.level.cookie_days):
        return Verdict.EXPIRED
    if found.clicked_at > user.created_at + timedelta(minutes=5):
        return Verdict.INVALID
    if not reseller.is_active:
        return Verdict.INACTIVE
    if reseller.user_id == user.pk or person_of(reseller.user) == person_of(user):
        return Verdict.OWN
    return Verdict.ATTRIBUTED


def correct_attribution(*, user_id: int, reseller: Reseller | None, reason: str, actor: User) -> Attribution | None:
    """Staff: from now on the customer is this reseller's, or nobody's. What was earned before stays. Twice is fine.

    Raises PortalError `reason_needed`, `own_customer`.
    """
    if not reason.strip():
        raise refuse("reason_needed")
    with transaction.atomic():
        user = User.objects.select_for_update(no_key=True).get(pk=user_id)
        if reseller and reseller.user_id == user.pk:
            raise refuse("own_customer")
        # What they signed up with counts until now; read later, it would be a second reseller at the same time.
        read_signup(user_id=user.pk)
        present = Attribution.objects.filter(user=user, until=None).first()
        if (present.reseller_id if present else None) == (reseller.pk if reseller else None):
            return present
        moment = now()
        if present:
            present.until = moment
            present.save(update_fields=["until"])
        made = None
        if reseller:
            made = Attribution.objects.create(
                user=user, reseller=reseller, since=moment, reason=reason.strip()[:200], actor=actor
            )
        set_brought_by(user_id=user.pk, by=reseller.user if reseller else None)
        record(
            actor=actor,
            event="customer.reassigned",
            target=user,
            before=present.reseller.code if present else "",
            after=reseller.code if reseller else "",
            reason=reason.strip()[:200],
        )
    return made
