"""The operator's pages: everything can be looked at, little can be changed, nothing deleted."""

from __future__ import annotations

from importlib import import_module
from io import StringIO
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.apps import apps
from django.contrib.auth.models import Permission
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import PeriodicTask

from accounts import services
from accounts.models import ApiToken, AuditEntry, Notification, User
from tests.conftest import make_user

MODELS = ["user", "apitoken", "notification", "auditentry"]


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


def act(browser: Client, model: str, action: str, *ids: int) -> Any:
    return browser.post(
        reverse(f"admin:accounts_{model}_changelist"), {"action": action, "_selected_action": ids, "confirmed": "1"}
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_list_and_page_opens_and_nothing_can_be_deleted(
    roots: Client, alice: User, root: User, model: str
) -> None:
    services.send_message(actor=root, user=alice, subject="Hello", body="Text")
    services.issue_token(user=alice, name="x", scopes=["account"], actor=alice)
    classes = {"user": User, "apitoken": ApiToken, "notification": Notification, "auditentry": AuditEntry}
    row = classes[model]._default_manager.first()
    assert row is not None
    assert roots.get(reverse(f"admin:accounts_{model}_changelist"), {"q": "a"}).status_code == 200
    assert roots.get(reverse(f"admin:accounts_{model}_change", args=[row.pk])).status_code == 200
    assert roots.get(reverse(f"admin:accounts_{model}_delete", args=[row.pk])).status_code == 403


def test_customers_have_no_business_there(client: Client, alice: User) -> None:
    client.force_login(alice)
    assert client.get(reverse("admin:accounts_user_changelist")).status_code == 302


def test_an_operator_makes_a_user_with_a_password(roots: Client) -> None:
    form = {"username": "dora", "email": "dora@example.com", "role": "user"}
    form |= {"password1": "violet-tram-88", "password2": "violet-tram-88", "usable_password": "true"}
    roots.post(reverse("admin:accounts_user_add"), form)
    user = User.objects.get(username="dora")
    assert user.check_password("violet-tram-88")
    assert EmailAddress.objects.get(user=user).verified
    assert AuditEntry.objects.filter(event="user.created", target_id=str(user.pk)).exists()


def test_an_address_is_kept_in_small_letters_as_logging_in_looks_for_it(roots: Client) -> None:
    form = {"username": "dora", "email": "Dora@Example.com", "role": "user"}
    form |= {"password1": "violet-tram-88", "password2": "violet-tram-88", "usable_password": "true"}
    roots.post(reverse("admin:accounts_user_add"), form)
    assert User.objects.get(username="dora").email == "dora@example.com"
    login = {"email": "Dora@example.com", "password": "violet-tram-88"}
    assert Client().post("/api/user/login", login, "application/json").status_code == 200
    assert User.objects.create_superuser("emil", "Emil@Example.com").email == "emil@example.com"


def test_addresses_of_before_are_made_small_where_nobody_else_has_them(alice: User, bob: User) -> None:
    User.objects.filter(pk=alice.pk).update(email="Alice@Example.com")
    EmailAddress.objects.filter(user=alice).update(email="Alice@Example.com")
    EmailAddress.objects.create(user=alice, email="BOB@example.com")
    import_module("accounts.migrations.0008_addresses_in_small_letters").lower(apps, None)
    alice.refresh_from_db()
    assert alice.email == "alice@example.com"
    kept = EmailAddress.objects.order_by("email").values_list("user__username", "email")
    assert set(kept) == {
        ("alice", "alice@example.com"),
        ("alice", "BOB@example.com"),
        ("bob", "bob@example.com"),
    }


def test_a_new_role_goes_through_the_service_and_leaves_other_fields_alone(roots: Client, alice: User) -> None:
    roots.post(
        reverse("admin:accounts_user_change", args=[alice.pk]),
        {"language": "zh-hans", "timezone": "UTC", "role": "reseller", "is_active": "", "email": "x@example.com"},
    )
    alice.refresh_from_db()
    assert (alice.role, alice.language) == ("reseller", "zh-hans")
    assert (alice.is_active, alice.email) == (True, "alice@example.com")
    assert AuditEntry.objects.filter(event="user.role_changed").count() == 1


def test_staff_who_are_no_superusers_cannot_raise_themselves(client: Client, root: User, alice: User) -> None:
    helper = make_user("helen", role="admin")
    helper.user_permissions.set(Permission.objects.filter(codename__in=["view_user", "change_user"]))
    client.force_login(helper)
    client.post(
        reverse("admin:accounts_user_change", args=[helper.pk]),
        {"language": "en", "timezone": "UTC", "role": "admin", "is_superuser": "on"},
    )
    helper.refresh_from_db()
    assert not helper.is_superuser
    assert client.get(reverse("admin:auth_user_password_change", args=[root.pk])).status_code == 403
    act(client, "user", "deactivate", root.pk, alice.pk)
    root.refresh_from_db()
    alice.refresh_from_db()
    assert (root.is_active, alice.is_active) == (True, False)


@pytest.mark.parametrize("model", ["emailaddress", "emailconfirmation"])
def test_nobody_moves_an_administrators_address_and_has_a_new_password_mailed_there(
    client: Client, root: User, model: str
) -> None:
    helper = make_user("helen", role="admin")
    helper.user_permissions.set(Permission.objects.filter(content_type__app_label="account"))
    client.force_login(helper)
    row = EmailAddress.objects.get(user=root)
    for address in (f"/admin/account/{model}/", f"/admin/account/{model}/{row.pk}/change/"):
        answer = client.post(address, {"user": root.pk, "email": "helen@example.net", "verified": "on"})
        assert answer.status_code == 404
    row.refresh_from_db()
    assert row.email == "root@example.com"


def test_actions_switch_off_and_on_revoke_and_resend(roots: Client, alice: User, root: User) -> None:
    token, _secret = services.issue_token(user=alice, name="x", scopes=["account"], actor=alice)
    message = services.send_message(actor=root, user=alice, subject="Hello", body="Text")
    Notification.objects.update(status="failed")
    act(roots, "apitoken", "revoke", token.pk)
    act(roots, "notification", "resend", message.pk)
    act(roots, "user", "deactivate", alice.pk)
    for row in (token, message, alice):
        row.refresh_from_db()
    assert (token.state, message.status, alice.is_active) == ("revoked", "queued", False)
    act(roots, "user", "reactivate", alice.pk)
    alice.refresh_from_db()
    assert alice.is_active
    act(roots, "user", "end_sessions", alice.pk)
    assert AuditEntry.objects.filter(event="user.sessions_ended", target_id=str(alice.pk)).exists()


def test_the_words_of_secret_mail_are_not_shown(roots: Client, alice: User) -> None:
    message = services.notify(
        kind="password_reset_key", dedup_key="r", user=alice, button_url="/very-secret", is_secret=True
    )
    assert message is not None
    page = roots.get(reverse("admin:accounts_notification_change", args=[message.pk])).content
    assert b"very-secret" not in page


def test_the_first_administrator_is_made_once(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADMIN_PASSWORD", raising=False)
    monkeypatch.setenv("ADMIN_EMAIL", "Boss@example.com")
    first, second = StringIO(), StringIO()
    call_command("create_first_admin", stdout=first)
    call_command("create_first_admin", stdout=second)
    admin = User.objects.get()
    password = first.getvalue().split("Password: ")[1].split()[0]
    assert (admin.username, admin.email, admin.is_superuser) == ("admin", "boss@example.com", True)
    assert admin.check_password(password)
    assert EmailAddress.objects.get(user=admin).verified
    assert second.getvalue() == ""


def test_a_given_password_is_used_and_not_printed(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_PASSWORD", "violet-tram-88")
    out = StringIO()
    call_command("create_first_admin", stdout=out)
    assert User.objects.get().check_password("violet-tram-88")
    assert "violet-tram-88" not in out.getvalue()


def test_the_sweep_of_the_outbox_is_scheduled(db: None) -> None:
    assert PeriodicTask.objects.get(task="accounts.tasks.deliver_due").interval.every == 30


def test_the_sweep_of_tickets_is_scheduled(db: None) -> None:
    assert PeriodicTask.objects.get(task="accounts.tasks.pass_on_tickets").interval.every == 60


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "fields", [{"username": "ALICE"}, {"email": "Alice@Example.com"}, {"role": "emperor"}], ids=lambda f: next(iter(f))
)
def test_the_database_itself_refuses(alice: User, fields: dict[str, str]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.create(**{"username": "zed", "email": "zed@example.com", **fields})
