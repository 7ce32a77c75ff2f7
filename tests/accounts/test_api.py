"""The API's doors for people: sign up, log in, read and send messages; and the one shape of every error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from allauth.account.models import EmailAddress
from django.core import mail
from django.test import Client
from django.test.client import RequestFactory
from ninja import NinjaAPI

from accounts import ratelimit, request_ip, services
from accounts.api import people
from accounts.apikit import install_handlers
from accounts.models import AuditEntry, Notification, User
from derp_portal.lib.clock import now
from tests.conftest import PASSWORD

NEWCOMER = {"username": "dora", "email": "Dora@Example.com", "password": "violet-tram-88"}


@pytest.fixture
def one_window() -> Iterator[None]:
    """The clock stands: attempts are counted in fixed windows, and none ends between two of them."""
    with time_machine.travel(now(), tick=False):
        yield


def post(path: str, data: Any, *, token: str = "", language: str = "en") -> Any:
    headers = {"Accept-Language": language}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return Client().post(path, data, "application/json", headers=headers)


def token_of(user: User, *scopes: str) -> str:
    return services.issue_token(user=user, name="t", scopes=scopes or ["account"], actor=user)[1]


def listing(token: str, **query: Any) -> Any:
    return Client().get("/api/notifications/list", query, headers={"Authorization": f"Bearer {token}"})


def test_signing_up_answers_the_id_and_mails_a_link_that_opens_the_account(db: None) -> None:
    answer = post("/api/user/register", NEWCOMER)
    user = User.objects.get(username="dora")
    assert (answer.status_code, answer.json()) == (200, {"success": True, "user_id": user.pk})
    assert user.email == "dora@example.com"
    login = {"email": "dora@example.com", "password": NEWCOMER["password"]}
    refused = post("/api/user/login", login)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "email_unverified")

    services.deliver_due()
    link = re.search(r"http://[^/]+(/accounts/confirm-email/\S+)", str(mail.outbox[0].body))
    assert link is not None
    Client().post(link[1])
    assert EmailAddress.objects.get(user=user).verified
    accepted = post("/api/user/login", login)
    assert accepted.status_code == 200
    assert set(accepted.json()) == {"success", "token", "expires_at"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"username": "ALICE"}, "username"),
        ({"username": "admin"}, "username"),
        ({"username": "a@b.example"}, "username"),
        ({"username": "ab"}, "username"),
        ({"email": "ALICE@example.com"}, "email"),
        ({"email": "nonsense"}, "email"),
        ({"email": ""}, "email"),
        ({"email": f"{'a' * 60}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 20}.com"}, "email"),
        ({"password": "12345678"}, "password"),
        ({"language": "tlh"}, "language"),
    ],
)
def test_a_bad_sign_up_names_the_field_and_changes_nothing(alice: User, change: dict[str, str], field: str) -> None:
    answer = post("/api/user/register", NEWCOMER | change)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    assert {one["field"] for one in answer.json()["error"]["fields"]} == {field}
    assert User.objects.count() == 1
    assert not Notification.objects.exists()


@pytest.mark.parametrize("login", [{"email": "alice@example.com"}, {"username": "alice"}, {"username": "Alice"}])
def test_logging_in_by_name_or_address(alice: User, login: dict[str, str]) -> None:
    token = post("/api/user/login", login | {"password": PASSWORD}).json()["token"]
    answer = Client().get("/api/user/me", headers={"Authorization": f"Bearer {token}"}).json()
    assert {key: answer[key] for key in ("id", "username", "email", "role", "rental_expiry")} == {
        "id": alice.pk,
        "username": "alice",
        "email": "alice@example.com",
        "role": "user",
        "rental_expiry": None,
    }


def test_a_wrong_password_and_an_unknown_name_answer_alike(alice: User) -> None:
    wrong = post("/api/user/login", {"username": "alice", "password": "wrong"})
    unknown = post("/api/user/login", {"username": "nobody", "password": "wrong"})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert wrong.json()["error"]["code"] == "invalid_credentials"


def test_a_switched_off_account_is_told_so_only_with_the_right_password(alice: User, root: User) -> None:
    services.deactivate_user(user_id=alice.pk, actor=root)
    right = post("/api/user/login", {"username": "alice", "password": PASSWORD})
    wrong = post("/api/user/login", {"username": "alice", "password": "wrong"})
    assert (right.status_code, right.json()["error"]["code"]) == (403, "account_inactive")
    assert wrong.json()["error"]["code"] == "invalid_credentials"


@pytest.mark.usefixtures("one_window")
def test_guessing_passwords_is_slowed_down_for_the_guesser_alone(alice: User) -> None:
    codes = [
        post("/api/user/login", {"username": "alice", "password": "wrong"}).json()["error"]["code"] for _ in range(11)
    ]
    assert codes == ["invalid_credentials"] * 10 + ["rate_limited"]
    answer = Client().post(
        "/api/user/login",
        {"username": "alice", "password": PASSWORD},
        "application/json",
        REMOTE_ADDR="198.51.100.9",
    )
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("ip", "counted"),
    [
        (None, ""),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ],
)
def test_a_network_of_ipv6_counts_as_one_address(ip: str | None, counted: str) -> None:
    assert request_ip.as_counted(ip) == counted


@pytest.mark.usefixtures("one_window")
def test_guessing_from_all_of_a_network_is_slowed_down_and_the_full_address_is_kept(alice: User) -> None:
    codes = [guess(f"2001:db8:1:2::{number:x}") for number in range(11)]
    assert codes == ["invalid_credentials"] * 10 + ["rate_limited"]
    assert guess("2001:db8:1:3::1") == "invalid_credentials"
    Client().post("/api/user/register", NEWCOMER, "application/json", REMOTE_ADDR="2001:db8:1:2::9")
    assert AuditEntry.objects.get(event="user.registered").ip == "2001:db8:1:2::9"


@pytest.mark.usefixtures("one_window")
def test_guessing_from_very_many_addresses_is_slowed_down_for_the_account(
    alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "LOGINS_AN_HOUR", 3)
    names = ("alice", "Alice", "ALICE", "aLice")
    said = [guess(f"192.0.2.{number}", name) for number, name in enumerate(names)]
    assert said == ["invalid_credentials"] * 3 + ["rate_limited"]


def guess(ip: str, name: str = "alice") -> str:
    said = {"username": name, "password": "wrong"}
    answer = Client().post("/api/user/login", said, "application/json", REMOTE_ADDR=ip)
    return str(answer.json()["error"]["code"])


@pytest.mark.usefixtures("one_window")
def test_being_limited_says_when_to_come_back(alice: User) -> None:
    for _ in range(10):
        post("/api/user/login", {"username": "alice", "password": "wrong"})
    answer = post("/api/user/login", {"username": "alice", "password": PASSWORD})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 300
    assert answer.json()["error"]["retry_after"] == int(answer.headers["Retry-After"])


def test_with_the_cache_away_everybody_passes(settings: Any) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "unix:///nonexistent/socket"}}
    for _ in range(3):
        ratelimit.hit(scope="x", key="y", limit=1, window_seconds=60)


def test_staff_write_to_a_customer(root: User, alice: User) -> None:
    token = token_of(root, "staff")
    answer = post(
        "/api/notifications/send", {"user_id": alice.pk, "subject": "Hi", "message": "One.\n\nTwo."}, token=token
    )
    assert answer.json() == {"success": True, "message": "Sent"}
    services.deliver_due()
    assert mail.outbox[0].to == ["alice@example.com"]
    assert "One.\n\nTwo." in mail.outbox[0].body
    missing = post("/api/notifications/send", {"user_id": 10**6, "subject": "Hi", "body": "x"}, token=token)
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    empty = post("/api/notifications/send", {"user_id": alice.pk, "subject": "Hi"}, token=token)
    assert (empty.status_code, empty.json()["error"]["code"]) == (422, "invalid_input")


def test_customers_cannot_write(alice: User) -> None:
    answer = post("/api/notifications/send", {"user_id": alice.pk, "subject": "a", "body": "b"}, token=token_of(alice))
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "missing_scope")


def test_people_list_their_own_messages_and_staff_everybodys(alice: User, bob: User, root: User) -> None:
    for user in (alice, bob, alice):
        services.send_message(actor=root, user=user, subject="Hello", body="Text")
    own = listing(token_of(alice)).json()
    assert (own["success"], own["total"], own["page"], own["pages"]) == (True, 2, 1, 1)
    assert {item["user_id"] for item in own["items"]} == {alice.pk}
    assert listing(token_of(alice), user_id=bob.pk).status_code == 404
    staff = token_of(root, "account", "staff")
    assert listing(staff).json()["total"] == 3
    assert listing(staff, user_id=bob.pk).json()["total"] == 1
    assert listing(staff, status="sent").json()["total"] == 0
    assert listing(token_of(root)).json()["total"] == 0, "a staff member's token without the staff scope"
    part = listing(staff, page=2, per_page=2).json()
    assert (len(part["items"]), part["page"], part["pages"]) == (1, 2, 2)


def test_mail_that_opens_an_account_is_listed_to_nobody(alice: User, root: User) -> None:
    services.notify(kind="password_reset_key", dedup_key="r", user=alice, button_url="/secret", is_secret=True)
    assert listing(token_of(alice)).json()["total"] == 0
    assert listing(token_of(root, "account", "staff")).json()["total"] == 0


def test_a_list_takes_the_same_queries_however_long(alice: User, root: User, django_assert_num_queries: Any) -> None:
    token = token_of(root, "account", "staff")
    listing(token)
    for _ in range(5):
        services.send_message(actor=root, user=alice, subject="Hello", body="Text")
    with django_assert_num_queries(3):  # token, count, rows
        listing(token)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [("{not json", 400, "invalid_request"), ("{}", 422, "invalid_input"), ("[]", 422, "invalid_input")],
)
def test_unreadable_and_incomplete_requests_have_the_one_envelope(db: None, body: str, status: int, code: str) -> None:
    answer = post("/api/user/login", body)
    assert answer.status_code == status
    assert answer.json()["success"] is False
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer dp_wrong", "Basic abc", "Bearer é"])
def test_without_a_valid_token_one_is_asked_for_it(db: None, header: str) -> None:
    answer = Client().get("/api/user/me", headers={"Authorization": header} if header else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_fault_of_ours_has_the_envelope_too_and_tells_nothing() -> None:
    api = NinjaAPI(urls_namespace="faults")
    install_handlers(api)
    answer = api.on_exception(RequestFactory().get("/x"), ZeroDivisionError("inner secret"))
    assert answer.status_code == 500
    assert b"internal_error" in answer.content
    assert b"inner secret" not in answer.content
