"""The pages about oneself, and what every request passes on its way to them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.core import mail
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone, translation

from accounts import services, tasks
from accounts.models import ApiToken, AuditEntry, User
from accounts.ratelimit import RateLimited
from accounts.services import people
from derp_portal.lib.clock import now
from derp_portal.middleware import errors_for_people, trusted_ip

PAGES = ["profile", "security", "tokens", "token_create", "notifications"]


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    """alice's browser."""
    client.force_login(alice)
    return client


@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_for_its_owner_and_asks_strangers_to_log_in(alice: User, name: str) -> None:
    browser = Client()
    assert browser.get(reverse(name)).status_code == 302
    browser.force_login(alice)
    assert browser.get(reverse(name)).status_code == 200


def test_a_token_is_made_shown_once_and_revoked(alices: Client, alice: User) -> None:
    made = alices.post(reverse("token_create"), {"name": "laptop", "scopes": ["account"], "valid_days": "30"})
    secret = re.search(r"dp_[\w-]{43}", made.content.decode())
    assert secret is not None
    assert "no-store" in made.headers["Cache-Control"]
    token = services.authenticate_token(secret=secret[0])
    assert token is not None
    page = alices.get(reverse("tokens")).content.decode()
    assert "laptop" in page
    assert secret[0] not in page
    address = reverse("token_revoke", args=[token.pk])
    assert alices.get(address).status_code == 200
    assert services.authenticate_token(secret=secret[0]) is not None, "asking changes nothing"
    alices.post(address)
    assert services.authenticate_token(secret=secret[0]) is None


def test_customers_are_not_offered_the_staff_scope(alices: Client) -> None:
    assert b'value="staff"' not in alices.get(reverse("token_create")).content
    alices.post(reverse("token_create"), {"name": "x", "scopes": ["staff"], "valid_days": "30"})
    assert not ApiToken.objects.exists()


def test_what_is_alices_does_not_exist_for_bob(alice: User, bob: User, root: User, client: Client) -> None:
    token, _secret = services.issue_token(user=alice, name="x", scopes=["account"], actor=alice)
    message = services.send_message(actor=root, user=alice, subject="Hello", body="Text")
    client.force_login(bob)
    assert client.post(reverse("token_revoke", args=[token.pk])).status_code == 404
    assert client.get(reverse("notification", args=[message.pk])).status_code == 404
    token.refresh_from_db()
    assert token.is_live()


def test_lists_can_be_searched_and_filtered(alices: Client, alice: User, root: User) -> None:
    services.issue_token(user=alice, name="laptop", scopes=["account"], actor=alice)
    token, _secret = services.issue_token(user=alice, name="server", scopes=["account"], actor=alice)
    services.revoke_token(token_id=token.pk, actor=alice)
    listed = {
        query: [
            name for name in ("laptop", "server") if f">{name}<" in alices.get(f"/tokens/?{query}").content.decode()
        ]
        for query in ("search=lap", "state=revoked", "state=live", "state=expired", "")
    }
    assert listed == {
        "search=lap": ["laptop"],
        "state=revoked": ["server"],
        "state=live": ["laptop"],
        "state=expired": [],
        "": ["laptop", "server"],
    }
    services.send_message(actor=root, user=alice, subject="About Tuesday", body="Text")
    assert b"About Tuesday" in alices.get("/notifications/?search=tuesday").content
    assert b"About Tuesday" not in alices.get("/notifications/?search=friday").content


@pytest.mark.parametrize("address", ["/tokens/", "/notifications/"])
def test_a_list_takes_the_same_queries_however_long(
    alices: Client, alice: User, root: User, address: str, django_assert_max_num_queries: Any
) -> None:
    for number in range(30):
        services.issue_token(user=alice, name=f"t{number}", scopes=["account"], actor=alice)
        services.send_message(actor=root, user=alice, subject=f"m{number}", body="Text")
    with django_assert_max_num_queries(6):
        page = alices.get(address).content.decode()
    assert "?page=2" in page


def test_a_message_is_shown_without_its_markup_coming_alive(alices: Client, alice: User, root: User) -> None:
    message = services.send_message(actor=root, user=alice, subject="<i>Hi</i>", body="<script>x</script>")
    page = alices.get(reverse("notification", args=[message.pk])).content
    assert b"<script>x" not in page
    assert b"<i>Hi" not in page


def test_the_profile_keeps_language_and_zone(alices: Client, alice: User) -> None:
    alices.post(reverse("profile"), {"language": "zh-hans", "timezone": "europe/berlin"})
    alice.refresh_from_db()
    assert (alice.language, alice.timezone) == ("zh-hans", "Europe/Berlin")
    refused = alices.post(reverse("profile"), {"language": "en", "timezone": "Mars/Olympus"})
    assert refused.status_code == 200
    alice.refresh_from_db()
    assert alice.timezone == "Europe/Berlin"


def test_signing_out_everywhere_else_keeps_this_browser(alices: Client, alice: User) -> None:
    other = Client()
    other.force_login(alice)
    alices.post(reverse("end_sessions"))
    assert alices.get(reverse("profile")).status_code == 200
    assert other.get(reverse("profile")).status_code == 302


def test_sessions_that_have_expired_are_dropped_some_at_a_time(
    alices: Client, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "SESSIONS_AT_ONCE", 2)
    for _number in range(3):
        Client().force_login(bob)
    Session.objects.exclude(pk=alices.session.session_key).update(expire_date=now() - timedelta(seconds=1))
    tasks.deliver_due()
    assert Session.objects.count() == 2
    tasks.deliver_due()
    assert [one.pk for one in Session.objects.all()] == [alices.session.session_key]
    assert alices.get("/profile/").status_code == 200


def test_ones_own_language_wins_over_the_browsers_and_a_switch_is_kept(client: Client, bob: User) -> None:
    client.force_login(bob)
    page = client.get(reverse("profile"), headers={"Accept-Language": "en"})
    assert page.headers["Content-Language"] == "zh-hans"
    client.post(reverse("set_language"), {"language": "en", "next": "/profile/"})
    bob.refresh_from_db()
    assert bob.language == "en"
    assert client.get(reverse("profile")).headers["Content-Language"] == "en"


def test_neither_zone_nor_language_of_one_reader_reaches_the_next(client: Client, bob: User) -> None:
    bob.timezone = "America/New_York"
    bob.save()
    client.force_login(bob)
    client.get(reverse("profile"))
    assert timezone.get_current_timezone_name() == timezone.get_default_timezone_name()
    assert Client().get(reverse("account_login"), headers={"Accept-Language": "en"}).headers["Content-Language"] == "en"


def test_signing_up_on_the_page_keeps_the_language_and_mails_in_it(db: None) -> None:
    form = {
        "username": "dora",
        "email": "dora@example.com",
        "password1": "violet-tram-88",
        "password2": "violet-tram-88",
    }
    Client().post("/accounts/signup/", form | {"timezone": "Asia/Tokyo"}, headers={"Accept-Language": "zh-hans"})
    user = User.objects.get()
    assert (user.language, user.timezone) == ("zh-hans", "Asia/Tokyo")
    assert AuditEntry.objects.filter(event="user.registered").count() == 1
    assert user.notifications.get().language == "zh-hans"
    services.deliver_due()
    assert "/accounts/confirm-email/" in mail.outbox[0].body


def test_a_password_reset_goes_through_the_outbox_under_our_own_address(alice: User, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    Client().post("/accounts/password/reset/", {"email": "alice@example.com"}, headers={"Host": "evil.example"})
    services.deliver_due()
    assert f"{settings.PUBLIC_URL}/accounts/password/reset/key/" in mail.outbox[0].body
    assert "evil.example" not in str(mail.outbox[0].message())


def test_an_unverified_address_cannot_log_in_on_the_page(db: None, client: Client) -> None:
    from tests.conftest import PASSWORD, make_user

    make_user("eve", is_verified=False)
    client.post("/accounts/login/", {"login": "eve", "password": PASSWORD})
    assert client.get(reverse("profile")).status_code == 302


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "203.0.113.5", "10.0.0.1"),
        (1, "198.51.100.1, 203.0.113.5", "203.0.113.5"),
        (2, "198.51.100.1, 203.0.113.5, 10.1.1.1", "203.0.113.5"),
        (1, "", "10.0.0.1"),
        (1, "nonsense", "10.0.0.1"),
        (1, "[2001:db8::1]:443", "2001:db8::1"),
        (1, "203.0.113.5:8080", "203.0.113.5"),
        (1, "::ffff:203.0.113.5", "203.0.113.5"),
    ],
)
def test_only_what_our_own_proxies_wrote_is_believed(
    settings: Any, proxies: int, forwarded: str, expected: str
) -> None:
    settings.TRUSTED_PROXIES = proxies
    request = RequestFactory().get("/", REMOTE_ADDR="10.0.0.1", headers={"X-Forwarded-For": forwarded})
    assert trusted_ip(request) == expected


def test_only_the_admin_has_the_looser_policy(root: User, client: Client) -> None:
    client.force_login(root)
    assert "unsafe-eval" in client.get(reverse("admin:login")).headers["Content-Security-Policy"]
    assert "unsafe-eval" not in client.get(reverse("profile")).headers["Content-Security-Policy"]


def test_an_error_for_people_becomes_a_page_in_their_words() -> None:
    middleware = errors_for_people(lambda _request: HttpResponse())
    request = RequestFactory().get("/")
    request.user = User()
    with translation.override("en"):
        page = middleware.process_exception(request, RateLimited("Wait a little.", retry_after=7))  # type: ignore[attr-defined]
    assert (page.status_code, page.headers["Retry-After"]) == (429, "7")
    assert b"Wait a little." in page.content
    assert middleware.process_exception(request, ValueError("x")) is None  # type: ignore[attr-defined]
