"""Tickets about leases from a reseller's stock: the reseller is asked first, staff after a day, on request or when the
lease is reassigned; and a reseller who is suspended sees nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from accounts import services as accounts
from accounts import subjects
from accounts.models import Notification, Ticket, TicketMessage, User
from accounts.services import tickets
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Server
from resellers import services
from resellers.models import LeaseContact, Reseller
from serials.models import Lease
from serials.services import activate
from tests.accounts.helpdesk import again, last_mail, mailed, write
from tests.billing.till import order_of, priced_plan
from tests.conftest import make_user
from tests.resellers.trade import make_reseller
from tests.serials.shop import at_once, make_server, new_code_of


@pytest.fixture
def seller(rita: User) -> Reseller:
    """rita, active, without a contact: mails then do not name her, tickets reach her all the same."""
    return make_reseller(rita, contact="", renewal_url="")


def lease_of(user: User, seller: Reseller | None) -> Lease:
    """A lease of the user's that the seller sold."""
    if not Server.objects.exists():
        make_server()
    _serial, lease = activate(user=user, code=new_code_of(priced_plan(30)))
    if seller:
        LeaseContact.objects.create(lease=lease, reseller=seller)
    return lease


def ask_about(lease: Lease, text: str = "It is dark.") -> Ticket:
    user = User.objects.get(pk=lease.user_id)
    return accounts.open_ticket(user=user, subject="No light", text=text, about=f"lease:{lease.pk}", actor=user)


def browser_of(user: User) -> Client:
    browser = Client(headers={"Accept-Language": "en"})
    browser.force_login(user)
    return browser


# --- routing ------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_ticket_about_a_lease_from_stock_reaches_the_reseller_first(
    alice: User, rita: User, root: User, seller: Reseller
) -> None:
    ticket = ask_about(lease_of(alice, seller))
    assert (ticket.first_line, ticket.with_staff_since) == (rita, None)
    assert mailed("ticket_opened") == ["rita@example.com"]


@pytest.mark.django_db
def test_other_leases_and_orders_are_the_operators(alice: User, root: User, seller: Reseller) -> None:
    assert ask_about(lease_of(alice, None)).first_line is None
    order = order_of(alice, priced_plan(30))
    said = {"subject": "x", "text": "y", "about": f"order:{order.number}"}
    assert accounts.open_ticket(user=alice, actor=alice, **said).first_line is None
    assert mailed("ticket_opened") == ["root@example.com"] * 2


@pytest.mark.django_db
def test_nobody_asks_about_leases_and_orders_of_others(alice: User, bob: User) -> None:
    order = order_of(alice, priced_plan(30))
    lease = lease_of(alice, None)
    for about in (f"lease:{lease.pk}", f"order:{order.number}", "lease:-1", "lease:²", "lease:" + "9" * 30):
        with pytest.raises(PortalError) as refusal:
            accounts.open_ticket(user=bob, subject="x", text="y", about=about, actor=bob)
        assert refusal.value.status == 404


@pytest.mark.django_db
def test_a_suspended_reseller_gets_none_and_sees_none_any_more(
    alice: User, rita: User, root: User, seller: Reseller
) -> None:
    lease = lease_of(alice, seller)
    ticket, browser = ask_about(lease), browser_of(rita)
    assert browser.get(f"/tickets/{ticket.number}/").status_code == 200
    services.suspend(reseller_id=seller.pk, reason="complaints", actor=root)
    for address in (f"/tickets/{ticket.number}/", f"/tickets/{ticket.number}/live/", "/reseller/tickets/"):
        assert browser.get(address).status_code == 404
    assert browser.post(f"/tickets/{ticket.number}/", {"text": "x"}).status_code == 404
    assert accounts.pass_on_overdue() == 1
    assert again(ticket).is_with_staff
    assert ask_about(lease, "Anybody?").first_line is None


@pytest.mark.django_db
def test_reassigning_a_lease_takes_its_open_tickets_along(
    alice: User, bob: User, rita: User, root: User, seller: Reseller
) -> None:
    other = make_reseller(make_user("oscar"))
    lease = lease_of(alice, seller)
    ticket, elsewhere = ask_about(lease), ask_about(lease_of(bob, seller))
    services.reassign_lease(lease_id=lease.pk, reseller=other, reason="rita has closed", actor=root)
    assert (again(ticket).first_line, again(ticket).is_with_staff) == (other.user, False)
    assert browser_of(rita).get(f"/tickets/{ticket.number}/").status_code == 404
    assert browser_of(other.user).get(f"/tickets/{ticket.number}/").status_code == 200
    services.reassign_lease(lease_id=lease.pk, reseller=None, reason="ours now", actor=root)
    assert (again(ticket).first_line, again(ticket).is_with_staff) == (None, True)
    assert mailed("ticket_passed_on") == ["root@example.com"]
    assert "has gone to the operator" in last_mail("ticket_with_staff").body_text
    assert again(elsewhere).first_line == rita


@pytest.mark.django_db
def test_a_lease_that_is_reassigned_takes_its_closed_tickets_along_in_silence(
    alice: User, rita: User, root: User, seller: Reseller
) -> None:
    other = make_reseller(make_user("oscar"))
    lease = lease_of(alice, seller)
    ticket = ask_about(lease)
    accounts.close_ticket(ticket_id=ticket.pk, actor=alice)
    told = Notification.objects.count()
    services.reassign_lease(lease_id=lease.pk, reseller=other, reason="rita has closed", actor=root)
    assert Notification.objects.count() == told
    assert browser_of(rita).get(f"/tickets/{ticket.number}/").status_code == 404
    with pytest.raises(PortalError):
        write(ticket, rita, "Hello again.")
    ticket = write(ticket, root, "Did it help?")
    assert ticket.first_line == other.user
    write(ticket, alice, "No.")
    assert mailed("ticket_message") == ["root@example.com"]


@pytest.mark.django_db
@pytest.mark.parametrize("spelled", ["lease:0{}", "lease:000{}"])
def test_a_lease_named_in_another_way_takes_its_tickets_along_too(
    alice: User, rita: User, root: User, seller: Reseller, spelled: str
) -> None:
    other, lease = make_reseller(make_user("oscar")), lease_of(alice, seller)
    said: dict[str, Any] = {"subject": "x", "text": "y", "about": spelled.format(lease.pk), "client_key": "k"}
    ticket = accounts.open_ticket(user=alice, actor=alice, **said)
    assert ticket.about == f"lease:{lease.pk}"
    assert accounts.open_ticket(user=alice, actor=alice, **said) == ticket
    services.reassign_lease(lease_id=lease.pk, reseller=other, reason="closed", actor=root)
    assert again(ticket).first_line == other.user
    assert browser_of(rita).get(f"/tickets/{ticket.number}/").status_code == 404


@pytest.mark.django_db
def test_a_seller_who_gets_a_ticket_from_another_has_as_long_as_the_one_before(
    alice: User, root: User, seller: Reseller
) -> None:
    other = make_reseller(make_user("oscar"))
    lease = lease_of(alice, seller)
    with time_machine.travel("2027-01-15T12:00:00Z", tick=False) as clock:
        ticket = ask_about(lease)
        clock.shift(timedelta(hours=23))
        services.reassign_lease(lease_id=lease.pk, reseller=other, reason="rita has closed", actor=root)
        clock.shift(timedelta(hours=23))
        assert accounts.pass_on_overdue() == 0
        clock.shift(timedelta(hours=1))
        assert accounts.pass_on_overdue() == 1
    assert again(ticket).is_with_staff


@pytest.mark.django_db
def test_a_new_seller_is_not_asked_for_what_the_operator_has_already(alice: User, root: User, seller: Reseller) -> None:
    other = make_reseller(make_user("oscar"))
    lease = lease_of(alice, seller)
    ticket = ask_about(lease)
    accounts.pass_on(ticket_id=ticket.pk, actor=alice)
    services.reassign_lease(lease_id=lease.pk, reseller=other, reason="rita has closed", actor=root)
    assert (again(ticket).first_line, again(ticket).is_with_staff) == (other.user, True)
    assert mailed("ticket_opened") == ["rita@example.com"]


@pytest.mark.django_db
def test_reassigned_to_one_who_is_suspended_it_goes_to_the_operator(alice: User, root: User, seller: Reseller) -> None:
    other = make_reseller(make_user("oscar"), state=Reseller.State.SUSPENDED)
    lease = lease_of(alice, seller)
    ticket = ask_about(lease)
    services.reassign_lease(lease_id=lease.pk, reseller=other, reason="a slip", actor=root)
    assert (again(ticket).first_line, again(ticket).is_with_staff) == (None, True)


@pytest.mark.django_db
def test_after_it_was_passed_on_the_seller_still_reads_and_answers(
    alice: User, rita: User, root: User, seller: Reseller
) -> None:
    ticket = ask_about(lease_of(alice, seller))
    accounts.pass_on(ticket_id=ticket.pk, actor=alice)
    ticket = write(ticket, rita, "Sorry, I was ill.")
    assert ticket.queue == Ticket.Queue.STAFF, "whoever asked for the operator goes on waiting for them"
    write(ticket, root, "We have looked.")
    shown = browser_of(alice).get(f"/tickets/{ticket.number}/").content.decode()
    told = ["Your seller", "Sorry, I was ill.", "Operator", "We have looked."]
    assert [shown.index(words) for words in told] == sorted(shown.index(words) for words in told)


# --- pages --------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_pages_of_leases_and_orders_lead_to_a_ticket_about_them(alice: User, seller: Reseller) -> None:
    lease, order, browser = lease_of(alice, seller), order_of(alice, priced_plan(30)), browser_of(alice)
    assert f'href="/tickets/new/?about=lease:{lease.pk}"' in browser.get(f"/leases/{lease.pk}/").content.decode()
    shown = browser.get(f"/orders/{order.number}/").content.decode()
    assert f'href="/tickets/new/?about=order:{order.number}"' in shown
    form = browser.get(f"/tickets/new/?about=lease:{lease.pk}").content.decode()
    assert f'<option value="lease:{lease.pk}" selected>Lease “{lease.name}”</option>' in form
    assert f'<option value="order:{order.number}">Order {order.number}</option>' in form
    assert "Your seller reads this first" in form
    browser.post("/tickets/new/", {"about": f"lease:{lease.pk}", "subject": "x", "text": "y"})
    thread = browser.get(f"/tickets/{Ticket.objects.get().number}/").content.decode()
    assert f'<a href="/leases/{lease.pk}/">Lease “{lease.name}”</a> (active)' in thread


@pytest.mark.django_db
def test_an_old_order_can_be_asked_about_from_its_own_page(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.ticket_subjects.OFFERED", 1)
    old, _new = order_of(alice, priced_plan(30)), order_of(alice, priced_plan(30))
    browser = browser_of(alice)
    assert f'value="order:{old.number}"' not in browser.get("/tickets/new/").content.decode()
    form = browser.get(f"/tickets/new/?about=order:{old.number}").content.decode()
    assert f'value="order:{old.number}" selected' in form
    browser.post("/tickets/new/", {"about": f"order:{old.number}", "subject": "x", "text": "y"})
    assert Ticket.objects.get().about == f"order:{old.number}"


@pytest.mark.django_db
def test_the_sellers_list_has_what_waits_on_top_and_masks_customers(
    alice: User, bob: User, rita: User, seller: Reseller
) -> None:
    with time_machine.travel("2027-01-15T12:00:00Z", tick=False) as clock:
        lease = lease_of(alice, seller)
        tickets = []
        for subject in ("first", "second", "third"):
            said = {"subject": subject, "text": "x", "about": f"lease:{lease.pk}"}
            tickets.append(accounts.open_ticket(user=alice, actor=alice, **said))
            clock.shift(timedelta(minutes=1))
        write(tickets[0], rita, "Done.")
        accounts.open_ticket(user=bob, subject="bobs", text="x", actor=bob)
        browser = browser_of(rita)
        shown = browser.get("/reseller/tickets/").content.decode()
        assert shown.index("second") < shown.index("third") < shown.index(">first<")
        assert "al***@e***.com" in shown
        assert "alice" not in shown
        assert "bobs" not in shown
        assert "2<span" in browser.get("/reseller/tickets/waiting/").content.decode()
        accounts.pass_on(ticket_id=tickets[1].pk, actor=rita)
        listed = {}
        for state in ("mine", "operator", "answered", "closed"):
            shown = browser.get(f"/reseller/tickets/?state={state}").content.decode()
            listed[state] = [one for one in ("first", "second", "third") if f">{one}<" in shown]
        assert listed == {"mine": ["third"], "operator": ["second"], "answered": ["first"], "closed": []}
        assert ">third<" in browser.get("/reseller/tickets/?search=thi").content.decode()
        write(tickets[2], rita, "Done.")
        assert browser.get("/reseller/tickets/waiting/").content.strip() == b""
        assert 'href="/reseller/tickets/"' in browser.get("/reseller/").content.decode()


@pytest.mark.django_db
def test_the_sellers_list_takes_the_same_queries_however_long(alice: User, rita: User, seller: Reseller) -> None:
    browser = browser_of(rita)

    def queries() -> int:
        with CaptureQueriesContext(connection) as seen:
            assert browser.get("/reseller/tickets/").status_code == 200
        return len(seen)

    ask_about(lease_of(alice, seller))
    few = queries()
    for number in range(30):
        customer = make_user(f"c{number}")
        Ticket.objects.create(
            number=f"T{number}", customer=customer, first_line=rita, first_line_since=now(), waiting_since=now()
        )
    assert queries() == few


# --- at the same moment -------------------------------------------------------------------------------


def race(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The calls at the same moment; what came of each."""
    return at_once(calls)


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_an_answer_and_the_sweep_at_the_same_moment_leave_no_answered_ticket_passed_on(
    alice: User, rita: User, root: User
) -> None:
    lease = lease_of(alice, make_reseller(rita))
    for _round in range(5):
        ticket = ask_about(lease)
        with time_machine.travel(now() + timedelta(hours=25)):
            answer = partial(accounts.reply, ticket_id=ticket.pk, text="Here.", actor=rita)
            outcomes = race([answer, accounts.pass_on_overdue, accounts.pass_on_overdue])
        assert not [one for one in outcomes if isinstance(one, Exception)]
        passed_on = sum(one for one in outcomes if isinstance(one, int))
        after = again(ticket)
        assert passed_on == after.is_with_staff, "passed on once at most, and only before the answer"
        assert after.state == ("waiting" if after.is_with_staff else "answered")
        accounts.close_ticket(ticket_id=ticket.pk, actor=alice)


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_an_answered_ticket_is_passed_on_when_unlocked(
    unlocked: None, alice: User, rita: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control: without the ticket's row, the sweep writes what it judged before the answer.
    ticket = ask_about(lease_of(alice, make_reseller(rita)))
    judged, answered = threading.Event(), threading.Event()
    pass_on = tickets._pass_on

    def slowly(*args: Any, **options: Any) -> None:
        judged.set()
        assert answered.wait(60)
        pass_on(*args, **options)

    monkeypatch.setattr(tickets, "_pass_on", slowly)

    def answer() -> None:
        assert judged.wait(60)
        accounts.reply(ticket_id=ticket.pk, text="Here.", actor=rita)
        answered.set()

    with time_machine.travel(now() + timedelta(hours=25)):
        race([accounts.pass_on_overdue, answer])
    assert (again(ticket).state, again(ticket).is_with_staff) == ("waiting", True)
    assert ticket.messages.count() == 2


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_ticket_opened_while_the_lease_is_reassigned_ends_with_the_new_seller(
    alice: User, rita: User, root: User
) -> None:
    seller, other = make_reseller(rita), make_reseller(make_user("oscar"))
    lease = lease_of(alice, seller)
    for to in (other, seller, other):
        reassign = partial(services.reassign_lease, lease_id=lease.pk, reseller=to, reason="x", actor=root)
        outcomes = race([partial(ask_about, lease), reassign, partial(ask_about, lease)])
        assert not [one for one in outcomes if isinstance(one, Exception)]
        assert set(Ticket.objects.values_list("first_line", flat=True)) == {to.user_id}


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_ticket_opened_again_while_the_lease_is_reassigned_ends_with_the_new_seller(
    alice: User, rita: User, root: User
) -> None:
    seller, other = make_reseller(rita), make_reseller(make_user("oscar"))
    lease, before = lease_of(alice, seller), seller
    for to in (other, seller, other):
        ticket = ask_about(lease)
        accounts.close_ticket(ticket_id=ticket.pk, actor=alice)
        race(
            [
                partial(accounts.reply, ticket_id=ticket.pk, text="x", actor=root),
                partial(services.reassign_lease, lease_id=lease.pk, reseller=to, reason="x", actor=root),
                partial(accounts.reply, ticket_id=ticket.pk, text="x", actor=before.user),
            ]
        )
        assert again(ticket).first_line == to.user
        accounts.close_ticket(ticket_id=ticket.pk, actor=root)
        before = to


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_ticket_opened_while_the_lease_is_reassigned_is_lost_on_the_old_seller_when_unlocked(
    unlocked: None, alice: User, rita: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The control: without the customer's row, the ticket is written after the old seller's were handed over.
    seller, other = make_reseller(rita), make_reseller(make_user("oscar"))
    lease = lease_of(alice, seller)
    asked, reassigned = threading.Event(), threading.Event()
    first_line_of = subjects.first_line_of

    def slowly(about: str, customer: User) -> User | None:
        found = first_line_of(about, customer)
        asked.set()
        assert reassigned.wait(60)
        return found

    monkeypatch.setattr(subjects, "first_line_of", slowly)

    def reassign() -> None:
        assert asked.wait(60)
        services.reassign_lease(lease_id=lease.pk, reseller=other, reason="x", actor=root)
        reassigned.set()

    race([partial(ask_about, lease), reassign])
    assert Ticket.objects.get().first_line == rita


@pytest.mark.both_databases
@pytest.mark.django_db(transaction=True)
def test_a_double_click_opens_one_ticket(alice: User) -> None:
    said: dict[str, Any] = {"subject": "x", "text": "y", "client_key": "k"}
    outcomes = race([partial(accounts.open_ticket, user=alice, actor=alice, **said)] * 4)
    assert len({one.pk for one in outcomes if isinstance(one, Ticket)}) == 1
    assert (Ticket.objects.count(), TicketMessage.objects.count()) == (1, 1)
