"""API tokens: 256 random bits, shown once, found again by their SHA-256."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from allauth.account.auth_backends import AuthenticationBackend
from allauth.account.models import EmailAddress
from django.contrib.auth import authenticate
from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils.translation import gettext as _

from accounts.models import ApiToken, User
from accounts.services.audit import record
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError
from derp_portal.lib.secrets import fingerprint, new_secret

TOKEN_START = "dp_"  # noqa: S105 - tells secret scanners and people what they are looking at
SHOWN_LENGTH = 10
LOGIN_TOKEN_DAYS = 30
LAST_USED_STEP = timedelta(minutes=1)


def issue_token(
    *,
    user: User,
    name: str,
    scopes: Iterable[str],
    actor: User | None,
    expires_at: datetime | None = None,
    is_login: bool = False,
) -> tuple[ApiToken, str]:
    """A new token and its secret, which cannot be had again. One that is a login ends with the password.

    Raises PortalError: `invalid_scope` for none, for unknown ones, and for those that are not for the user (`staff`,
    `reseller`); `invalid_expiry` for a moment that has passed; `account_inactive`.
    """
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= set(ApiToken.Scope.values):
        raise PortalError(_("Choose at least one of the known scopes."), code="invalid_scope", status=422)
    if expires_at is not None and expires_at <= clock.now():
        raise PortalError(_("The token would have expired already."), code="invalid_expiry", status=422)
    secret = TOKEN_START + new_secret(32)
    with transaction.atomic():
        # Read again under the lock: an account that is being closed must not keep a fresh token.
        owner = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        if not owner.is_active:
            raise _inactive()
        if ApiToken.Scope.STAFF in wanted and not owner.is_staff:
            raise PortalError(_("Only administrators get the staff scope."), code="invalid_scope", status=403)
        if not all(ApiToken.Scope(scope).is_for(owner) for scope in wanted):
            raise PortalError(_("Only resellers get the reseller scope."), code="invalid_scope", status=403)
        token = ApiToken.objects.create(
            user=owner,
            name=name.strip()[:80] or _("Unnamed"),
            prefix=secret[:SHOWN_LENGTH],
            digest=fingerprint(secret),
            scopes=wanted,
            expires_at=expires_at,
            is_login=is_login,
        )
        record(actor=actor, event="token.issued", target=token, scopes=wanted, expires_at=expires_at)
    return token, secret


def revoke_token(*, token_id: int, actor: User | None) -> ApiToken:
    """End a token now. Ending twice is fine. Raises ApiToken.DoesNotExist."""
    with transaction.atomic():
        token = ApiToken.objects.select_for_update(of=("self",)).select_related("user").get(pk=token_id)
        if token.revoked_at is None:
            token.revoked_at = clock.now()
            token.save(update_fields=["revoked_at"])
            record(actor=actor, event="token.revoked", target=token)
    return token


def revoke_all(*, user_id: int) -> int:
    """End every token of a user; the number ended. For callers that write their own audit entry."""
    return ApiToken.objects.filter(user_id=user_id, revoked_at=None).update(revoked_at=clock.now())


def revoke_logins(*, user_id: int) -> int:
    """End the tokens that `log_in` made, not those made by hand; the number ended. For callers that write their own
    audit entry.
    """
    made = ApiToken.objects.filter(user_id=user_id, revoked_at=None, is_login=True)
    return made.update(revoked_at=clock.now())


def authenticate_token(*, secret: str) -> ApiToken | None:
    """The live token of an active user that has this secret, with its user loaded; None for any other."""
    now = clock.now()
    token = ApiToken.objects.select_related("user").filter(digest=fingerprint(secret)).first()
    if token is None or not token.is_live(now) or not token.user.is_active:
        return None
    # At most one write a minute, however busy the token is; with two requests at once, one of them writes.
    if token.last_used_at is None or token.last_used_at <= now - LAST_USED_STEP:
        stale = Q(last_used_at=None) | Q(last_used_at__lte=now - LAST_USED_STEP)
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    return token


def log_in(*, request: HttpRequest, login: str, password: str) -> tuple[ApiToken, str]:
    """Exchange a username or e-mail address and a password for a token of 30 days.

    Raises PortalError: `invalid_credentials` (401) whichever of the two was wrong; with the right password
    `account_inactive` or `email_unverified` (403). Callers limit the rate.
    """
    user = authenticate(request, username=login, password=password)
    if user is None:
        # Tells a switched-off account apart, but only to who knows the password.
        if AuthenticationBackend.unstash_authenticated_user() is not None:
            raise _inactive()
        raise PortalError(_("The name or the password is wrong."), code="invalid_credentials", status=401)
    assert isinstance(user, User)
    if not EmailAddress.objects.filter(user=user, verified=True).exists():
        raise PortalError(
            _("Confirm your e-mail address first: open the link in the mail we sent you."),
            code="email_unverified",
            status=403,
        )
    scopes = [scope for scope in ApiToken.Scope if scope.is_for(user)]
    expires_at = clock.now() + clock.days(LOGIN_TOKEN_DAYS)
    return issue_token(user=user, name=_("API login"), scopes=scopes, actor=user, expires_at=expires_at, is_login=True)


def _inactive() -> PortalError:
    return PortalError(_("This account is switched off."), code="account_inactive", status=403)
