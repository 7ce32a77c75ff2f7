"""API tokens: shown once, kept as a digest, ended by time, by hand or with the account."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.test import Client
from django.urls import reverse

from accounts import services
from accounts.models import ApiToken, AuditEntry, User
from derp_portal.lib.errors import PortalError
from tests.conftest import PASSWORD

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def issue(user: User, *scopes: str, **fields: Any) -> tuple[ApiToken, str]:
    return services.issue_token(user=user, name="script", scopes=scopes or ["account"], actor=user, **fields)


def me(secret: str) -> Any:
    return Client().get("/api/user/me", headers={"Authorization": f"Bearer {secret}"})


def test_a_token_opens_the_api(alice: User) -> None:
    _token, secret = issue(alice)
    answer = me(secret)
    assert answer.status_code == 200
    assert answer.json()["username"] == "alice"


def test_the_secret_is_kept_nowhere(alice: User) -> None:
    token, secret = issue(alice)
    kept = str(ApiToken.objects.values().get()) + str(list(AuditEntry.objects.values()))
    assert secret.startswith("dp_")
    assert len(secret) > 43
    assert secret not in kept
    assert secret.startswith(token.prefix)


def test_an_expired_token_opens_nothing(alice: User) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        _token, secret = issue(alice, expires_at=NOON + timedelta(days=1))
        assert services.authenticate_token(secret=secret) is not None
        clock.shift(timedelta(days=1))
        assert services.authenticate_token(secret=secret) is None


def test_a_revoked_token_opens_nothing_and_revoking_twice_is_fine(alice: User) -> None:
    token, secret = issue(alice)
    services.revoke_token(token_id=token.pk, actor=alice)
    services.revoke_token(token_id=token.pk, actor=alice)
    answer = me(secret)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "unauthorized"
    assert AuditEntry.objects.filter(event="token.revoked").count() == 1


def test_a_token_without_the_scope_is_refused_by_name(alice: User) -> None:
    _token, secret = issue(alice, "serials")
    answer = me(secret)
    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "missing_scope"
    assert answer.json()["error"]["scope"] == "account"


@pytest.mark.parametrize("scopes", [[], ["everything"]])
def test_unknown_and_empty_scopes_are_refused(alice: User, scopes: list[str]) -> None:
    with pytest.raises(PortalError) as refusal:
        services.issue_token(user=alice, name="x", scopes=scopes, actor=alice)
    assert refusal.value.code == "invalid_scope"


def test_only_administrators_get_the_staff_scope(alice: User, root: User) -> None:
    with pytest.raises(PortalError) as refusal:
        issue(alice, "staff")
    assert refusal.value.status == 403
    issue(root, "staff")


def test_a_staff_token_is_worthless_once_its_owner_is_no_administrator(root: User, alice: User) -> None:
    services.change_role(user_id=alice.pk, role="admin", actor=root)
    _token, secret = issue(alice, "staff", "account")
    alice.refresh_from_db()
    services.change_role(user_id=alice.pk, role="user", actor=root)
    answer = Client().post(
        "/api/notifications/send",
        {"user_id": alice.pk},
        "application/json",
        headers={"Authorization": f"Bearer {secret}"},
    )
    assert answer.status_code == 403


def test_last_use_is_written_at_most_once_a_minute(alice: User, django_assert_num_queries: Any) -> None:
    with time_machine.travel(NOON, tick=False) as clock:
        token, secret = issue(alice)
        with django_assert_num_queries(2):
            services.authenticate_token(secret=secret)
        clock.shift(59)
        with django_assert_num_queries(1):
            services.authenticate_token(secret=secret)
        token.refresh_from_db()
        assert token.last_used_at == NOON
        clock.shift(1)
        services.authenticate_token(secret=secret)
        token.refresh_from_db()
        assert token.last_used_at == NOON + timedelta(seconds=60)


def new_password_by_mail(alice: User, _root: User) -> None:
    browser = Client()
    browser.post("/accounts/password/reset/", {"email": alice.email})
    services.deliver_due()
    link = re.search(r"/accounts/password/reset/key/\S+", str(mail.outbox[-1].body))
    assert link
    form = browser.get(link[0]).headers["Location"]
    browser.post(form, {"password1": "violet-tram-88", "password2": "violet-tram-88"})


def new_password_on_the_page(alice: User, _root: User) -> None:
    browser = Client()
    browser.force_login(alice)
    said = {"oldpassword": PASSWORD, "password1": "violet-tram-88", "password2": "violet-tram-88"}
    browser.post("/accounts/password/change/", said)


def new_password_by_staff(alice: User, root: User) -> None:
    browser = Client()
    browser.force_login(root)
    said = {"password1": "violet-tram-88", "password2": "violet-tram-88", "usable_password": "true"}
    browser.post(reverse("admin:auth_user_password_change", args=[alice.pk]), said)


@pytest.mark.parametrize("change", [new_password_by_mail, new_password_on_the_page, new_password_by_staff])
def test_a_new_password_ends_what_the_old_one_opened_and_leaves_tokens_made_by_hand(
    alice: User, root: User, change: Callable[[User, User], None]
) -> None:
    login = {"username": "alice", "password": PASSWORD}
    opened = [
        Client().post("/api/user/login", login, "application/json", headers={"Accept-Language": language}).json()
        for language in ("en", "zh-hans")
    ]
    _token, by_hand = issue(alice)
    _token, named_so = services.issue_token(user=alice, name="API login", scopes=["account"], actor=alice)
    change(alice, root)
    alice.refresh_from_db()
    assert alice.check_password("violet-tram-88")
    assert [me(one["token"]).status_code for one in opened] == [401, 401]
    assert [me(secret).status_code for secret in (by_hand, named_so)] == [200, 200]
    entry = AuditEntry.objects.get(event="user.password_changed")
    assert (entry.actor_label, entry.data["revoked_tokens"]) == (
        "root" if change is new_password_by_staff else "alice",
        2,
    )


def test_switching_an_account_off_ends_tokens_and_sessions_for_good(alice: User, root: User, client: Client) -> None:
    _token, secret = issue(alice)
    client.force_login(alice)
    services.deactivate_user(user_id=alice.pk, actor=root)
    services.deactivate_user(user_id=alice.pk, actor=root)
    assert me(secret).status_code == 401
    assert client.get("/profile/").status_code == 302
    services.reactivate_user(user_id=alice.pk, actor=root)
    assert me(secret).status_code == 401
    assert client.get("/profile/").status_code == 302
    with pytest.raises(PortalError):
        services.deactivate_user(user_id=root.pk, actor=root)
