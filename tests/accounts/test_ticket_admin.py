"""Tickets at the operator's desk: what waits stands on top, every act asks first, and permissions are asked for."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from accounts import services
from accounts.models import Ticket, TicketMessage, User
from tests.accounts.helpdesk import again, ask, last_mail, mailed, teach_boxes, write
from tests.conftest import make_user

pytestmark = pytest.mark.django_db
LIST = "/admin/accounts/ticket/"


@pytest.fixture
def boxed(monkeypatch: pytest.MonkeyPatch, rita: User) -> None:
    """Everybody has a box; rita is asked first about all of them."""
    teach_boxes(monkeypatch, rita)


@pytest.fixture
def roots(root: User) -> Client:
    """root's browser."""
    return browser_of(root)


def browser_of(user: User) -> Client:
    browser = Client(headers={"Accept-Language": "en"})
    browser.force_login(user)
    return browser


def page(name: str, ticket: Ticket) -> str:
    return reverse(f"admin:accounts_ticket_{name}", args=[ticket.pk])


@pytest.mark.usefixtures("boxed")
def test_what_waits_for_the_operator_stands_on_top(roots: Client, alice: User, bob: User, root: User) -> None:
    with_seller, answered, waiting = ask(alice, about_box=True), ask(bob), ask(bob, subject="Quite urgent")
    write(answered, root, "Done.")
    shown = roots.get(LIST).content.decode()
    places = [shown.index(ticket.number) for ticket in (waiting, with_seller, answered)]
    assert places == sorted(places)
    found = {}
    for query in ("?turn=staff", "?turn=first_line", "?turn=answered", "?turn=closed", "?q=quite", "?q=alice@"):
        shown = roots.get(LIST + query).content.decode()
        found[query] = [one.number for one in (waiting, with_seller, answered) if one.number in shown]
    assert found == {
        "?turn=staff": [waiting.number],
        "?turn=first_line": [with_seller.number],
        "?turn=answered": [answered.number],
        "?turn=closed": [],
        "?q=quite": [waiting.number],
        "?q=alice@": [with_seller.number],
    }


@pytest.mark.usefixtures("boxed")
def test_staff_read_the_thread_answer_note_take_over_and_close(roots: Client, alice: User, rita: User) -> None:
    ticket = ask(alice, "It is dark.\n<b>Very.</b>", about_box=True)
    shown = roots.get(page("change", ticket)).content.decode()
    assert "It is dark.<br>&lt;b&gt;Very.&lt;/b&gt;" in shown
    assert "Box " in shown
    assert "(shut)" in shown
    for name in ("answer", "note", "take_over", "close"):
        assert page(name, ticket) in shown
        assert roots.get(page(name, ticket)).status_code == 200
    assert ticket.messages.count() == 1, "asking changes nothing"
    roots.post(page("note", ticket), {"text": "a secret"})
    assert "a secret" in roots.get(page("change", ticket)).content.decode()
    assert (again(ticket).state, again(ticket).is_with_staff) == ("waiting", False)
    roots.post(page("take_over", ticket))
    assert again(ticket).is_with_staff
    assert mailed("ticket_with_staff") == ["alice@example.com"]
    assert mailed("ticket_passed_on") == [], "staff know"
    roots.post(page("answer", ticket), {"text": "Here is light."})
    assert again(ticket).state == "answered"
    assert "Here is light." in last_mail("ticket_answered").body_text
    roots.post(page("close", ticket))
    assert again(ticket).is_closed
    shown = roots.get(page("change", ticket)).content.decode()
    assert page("take_over", ticket) not in shown
    assert page("close", ticket) not in shown
    assert [message.side for message in TicketMessage.objects.all()] == ["customer", "staff", "staff"]


def test_an_empty_answer_is_refused_on_its_page(roots: Client, alice: User) -> None:
    ticket = ask(alice)
    for name in ("answer", "note"):
        shown = roots.post(page(name, ticket), {"text": "  "}).content.decode()
        assert "the message is empty" in shown
    assert ticket.messages.count() == 1


def test_looking_and_acting_need_their_permissions(alice: User) -> None:
    ticket, helen = ask(alice), make_user("helen", role="admin")
    browser = browser_of(helen)
    assert browser.get(LIST).status_code == 403
    assert browser.get(page("change", ticket)).status_code == 403
    helen.user_permissions.add(Permission.objects.get(codename="view_ticket"))
    shown = browser.get(page("change", ticket)).content.decode()
    assert "It does not work." in shown
    for name in ("answer", "note", "take_over", "close"):
        assert page(name, ticket) not in shown
        assert browser.post(page(name, ticket), {"text": "x"}).status_code == 403
    assert (again(ticket).state, ticket.messages.count()) == ("waiting", 1)
    helen.user_permissions.add(Permission.objects.get(codename="change_ticket"))
    browser.post(page("answer", ticket), {"text": "x"})
    assert again(ticket).state == "answered"


@pytest.mark.usefixtures("boxed")
def test_the_operators_home_says_what_waits_for_whoever_may_look(roots: Client, alice: User) -> None:
    assert roots.get("/admin/").context["attention"] == []
    ask(alice, about_box=True)
    assert roots.get("/admin/").context["attention"] == [], "that waits for the seller"
    ticket = ask(alice, subject="No light")
    helen = make_user("helen", role="admin")
    assert "attention" not in browser_of(helen).get("/admin/").context
    helen.user_permissions.add(Permission.objects.get(codename="view_ticket"))
    for browser in (roots, browser_of(helen)):
        [kind] = browser.get("/admin/").context["attention"]
        assert (kind.title, kind.count) == ("Tickets that wait for an answer", 1)
        assert kind.items[0].title == f"{ticket.number} · alice"
        assert kind.items[0].reason == "No light"
        assert browser.get(kind.link).status_code == 200
        assert browser.get(kind.items[0].link).status_code == 200


def test_the_history_of_a_ticket_is_the_audit_trail(roots: Client, alice: User) -> None:
    ticket = ask(alice)
    services.close_ticket(ticket_id=ticket.pk, actor=alice)
    shown = roots.get(page("history", ticket), follow=True).content.decode()
    assert "ticket.opened" in shown
    assert "ticket.closed" in shown
