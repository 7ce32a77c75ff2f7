"""Becoming a reseller, being one, and what staff decide about it."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.models import AuditEntry, User
from accounts.services import change_role, notify, record
from billing.services import set_wholesale_level
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from resellers.models import Level, LevelPeriod, Reseller
from resellers.models.people import LINK_CODE

TERMS_VERSION = "2026-11-26"
"""Of the terms on the application page: whoever changes them there changes this."""
LETTERS = "23456789abcdefghjkmnpqrstuvwxyz"
State = Reseller.State
PAYOUT = frozenset({"payout_kind", "payout_details"})
DECIDED = (State.ACTIVE, State.REJECTED, State.SUSPENDED)

REFUSALS: dict[str, tuple[Promise | str, int]] = {
    "reason_needed": (_("Say why."), 400),
    "own_customer": (_("Nobody is their own customer."), 409),
    "terms_needed": (_("Please accept the terms."), 422),
    "no_level": (_("There is no level for new resellers yet."), 409),
    "link_taken": (_("This link is taken. Please choose another."), 409),
    "link_invalid": (_("A link has 3 to 32 small letters, digits and dashes."), 422),
    "not_a_reseller": (_("You are not a reseller."), 403),
    "already_decided": (_("This was decided before; nothing was changed."), 409),
    "is_staff": (_("Administrators cannot become resellers."), 409),
}


def refuse(code: str, **extra: Any) -> PortalError:
    """The refusal of that code, in words."""
    words, status = REFUSALS[code]
    return PortalError(words, code=code, status=status, **extra)


def apply(*, user: User, application: str, code: str = "", accepts_terms: bool) -> Reseller:
    """Ask to become a reseller. Asking again changes what was said, until it is decided.

    Raises PortalError `terms_needed`, `no_level`, `link_taken`, `link_invalid`, `is_staff`, `already_decided`.
    """
    if not accepts_terms:
        raise refuse("terms_needed")
    if user.is_staff:
        raise refuse("is_staff")
    level = Level.objects.filter(is_default=True).first()
    if level is None:
        raise refuse("no_level")
    wish = checked_code(code) if code.strip() else ""
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        found = Reseller.objects.filter(user=user).first()
        if found and found.state not in (State.APPLIED, State.REJECTED):
            raise refuse("already_decided")
        reseller = found or Reseller(user=user, level=level, code=wish or _new_code())
        reseller.code = wish or reseller.code
        reseller.application = application.strip()[:4000]
        reseller.state = State.APPLIED
        reseller.terms_version, reseller.terms_accepted_at = TERMS_VERSION, now()
        _save(reseller)
        record(actor=user, event="reseller.applied", target=reseller)
    return reseller


def checked_code(text: str) -> str:
    """A link's code as it is stored. Raises PortalError `link_invalid`."""
    code = text.strip().lower()
    try:
        LINK_CODE(code)
    except ValidationError as error:
        raise refuse("link_invalid") from error
    return code


def _new_code() -> str:
    return "".join(secrets.choice(LETTERS) for _letter in range(8))


def _save(reseller: Reseller) -> None:
    try:
        with transaction.atomic():
            reseller.save()
    except IntegrityError as error:
        raise refuse("link_taken") from error


def approve(*, reseller_id: int, level: Level | None = None, actor: User) -> Reseller:
    """Staff: make the applicant, or one who was suspended, an active reseller. Twice is fine."""
    with transaction.atomic():
        reseller = _locked(reseller_id)
        if reseller.state == State.ACTIVE:
            return reseller
        if reseller.user.is_staff:
            raise refuse("is_staff")
        was_suspended = reseller.state == State.SUSPENDED
        _decide(reseller, State.ACTIVE, "", actor)
        if level or not reseller.level_periods.exists():
            _put_at_level(reseller, level or reseller.level, actor)
        change_role(user_id=reseller.user_id, role=User.Role.RESELLER, actor=actor)
        _tell(reseller, "reseller_reinstated" if was_suspended else "reseller_approved")
    return reseller


def reject(*, reseller_id: int, reason: str, actor: User) -> Reseller:
    """Staff: turn the application down. Raises PortalError `reason_needed`, `already_decided` for an active one."""
    if not reason.strip():
        raise refuse("reason_needed")
    with transaction.atomic():
        reseller = _locked(reseller_id)
        if reseller.state == State.REJECTED:
            return reseller
        if reseller.state != State.APPLIED:
            raise refuse("already_decided")
        _decide(reseller, State.REJECTED, reason, actor)
        _tell(reseller, "reseller_rejected")
    return reseller


def suspend(*, reseller_id: int, reason: str, actor: User) -> Reseller:
    """Staff: the link brings nobody any more and new orders earn nothing; what was earned stays. Twice is fine."""
    if not reason.strip():
        raise refuse("reason_needed")
    with transaction.atomic():
        reseller = _locked(reseller_id)
        if reseller.state == State.SUSPENDED:
            return reseller
        if reseller.state != State.ACTIVE:
            raise refuse("already_decided")
        _decide(reseller, State.SUSPENDED, reason, actor)
        if reseller.user.role == User.Role.RESELLER:
            change_role(user_id=reseller.user_id, role=User.Role.USER, actor=actor)
        _tell(reseller, "reseller_suspended")
    return reseller


def set_level(*, reseller_id: int, level: Level, actor: User) -> Reseller:
    """Staff: from now on the reseller earns and buys as this level does. The same again changes nothing."""
    with transaction.atomic():
        reseller = _locked(reseller_id)
        if reseller.level_id != level.pk:
            _put_at_level(reseller, level, actor)
    return reseller


def update_reseller(*, reseller_id: int, actor: User, **values: str) -> Reseller:
    """The reseller's own settings: `code`, `contact`, `renewal_url`, `landing_text`, `payout_kind`, `payout_details`.

    They are told when the payout account is another, in case somebody else is at their desk.
    Raises PortalError `link_taken`, `link_invalid`; ValidationError for the others.
    """
    allowed = {"code", "contact", "renewal_url", "landing_text", "payout_kind", "payout_details"}
    unknown = set(values) - allowed
    assert not unknown, unknown
    with transaction.atomic():
        reseller = _locked(reseller_id)
        if "code" in values:
            values["code"] = checked_code(values["code"])
        if "contact" in values:
            # One line: it stands in mails, where an empty line begins another paragraph.
            values["contact"] = " ".join(values["contact"].split())
        changed = [name for name, value in values.items() if getattr(reseller, name) != value]
        for name in changed:
            setattr(reseller, name, values[name])
        reseller.clean_fields(exclude={field.name for field in reseller._meta.fields} - set(changed))
        if changed:
            _save(reseller)
            # What they are, not what they say: bank details are nobody's business.
            record(actor=actor, event="reseller.changed", target=reseller, fields=sorted(changed))
        if not PAYOUT.isdisjoint(changed):
            _tell_payout_changed(reseller)
    return reseller


def _locked(reseller_id: int) -> Reseller:
    user_id = Reseller.objects.values_list("user_id", flat=True).get(pk=reseller_id)
    User.objects.select_for_update(no_key=True).get(pk=user_id)
    return (
        Reseller.objects.select_for_update(of=("self",), no_key=True)
        .select_related("user", "level")
        .get(pk=reseller_id)
    )


def _decide(reseller: Reseller, state: Reseller.State, reason: str, actor: User) -> None:
    reseller.state, reseller.decision_reason = state, reason.strip()[:200]
    reseller.decided_by, reseller.decided_at = actor, now()
    reseller.save(update_fields=["state", "decision_reason", "decided_by", "decided_at"])
    # Also read by `was_active`: it is the history of the state.
    record(actor=actor, event=_event_of(state), target=reseller, reason=reseller.decision_reason)


def was_active(reseller: Reseller, moment: datetime) -> bool:
    """Whether the reseller was active at that moment, by what staff have decided before and after it."""
    decisions = AuditEntry.objects.filter(
        target_type=Reseller._meta.label_lower,
        target_id=str(reseller.pk),
        event__in=[_event_of(state) for state in DECIDED],
    )
    before = decisions.filter(created_at__lte=moment).order_by("-created_at", "-id").first()
    if before:
        return bool(before.event == _event_of(State.ACTIVE))
    after = decisions.filter(created_at__gt=moment).order_by("created_at", "id").first()
    # Only an active one is ever suspended; all others were waiting.
    return bool(after.event == _event_of(State.SUSPENDED)) if after else reseller.is_active


def _event_of(state: Reseller.State) -> str:
    return f"reseller.{state.value}"


def _put_at_level(reseller: Reseller, level: Level, actor: User) -> None:
    reseller.level = level
    reseller.save(update_fields=["level"])
    LevelPeriod.objects.create(reseller=reseller, level=level, since=now(), actor=actor)
    set_wholesale_level(user_id=reseller.user_id, level=level.code)
    record(actor=actor, event="reseller.level_changed", target=reseller, level=level.code)


def _tell(reseller: Reseller, kind: str) -> None:
    notify(
        kind=kind,
        dedup_key=f"{kind}:{reseller.pk}:{reseller.decided_at}",
        user=reseller.user,
        context={"reseller": reseller, "reason": reseller.decision_reason},
        button_url="/reseller/",
    )


def _tell_payout_changed(reseller: Reseller) -> None:
    changed_at = now()
    notify(
        kind="payout_changed",
        dedup_key=f"payout_changed:{reseller.pk}:{changed_at}",
        user=reseller.user,
        context={"changed_at": changed_at},
        button_url="/reseller/settings/",
    )
