"""Tickets: whom they reach, who may read and write, when they go to the operator, and what is mailed of them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from accounts import services
from accounts.models import AuditEntry, Notification, Ticket, TicketMessage, User
from accounts.ratelimit import RateLimited
from accounts.services import tickets
from accounts.services.tickets import MOST_OPEN, MOST_OPENED_IN_AN_HOUR, REOPENED_WITHIN
from accounts.tasks import pass_on_tickets
from derp_portal.lib.append_only import Unchangeable
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from tests.accounts.helpdesk import again, ask, last_mail, mailed, teach_boxes, write
from tests.conftest import make_user

pytestmark = pytest.mark.django_db
START = "2027-01-15T12:00:00Z"
SECRET = "he is late with his payments again"


@pytest.fixture
def boxed(monkeypatch: pytest.MonkeyPatch, rita: User) -> None:
    """Everybody has a box; rita is asked first about all of them."""
    teach_boxes(monkeypatch, rita)


@pytest.fixture
def alices(client: Client, alice: User) -> Client:
    """alice's browser."""
    client.force_login(alice)
    return client


@pytest.fixture
def ritas(rita: User) -> Client:
    """rita's browser."""
    browser = Client(headers={"Accept-Language": "en"})
    browser.force_login(rita)
    return browser


def refused(code: str, verb: Any, **arguments: Any) -> PortalError:
    with pytest.raises(PortalError) as refusal:
        verb(**arguments)
    assert refusal.value.code == code
    return refusal.value


def page(name: str, ticket: Ticket) -> str:
    return reverse(name, args=[ticket.number])


# --- whom it reaches ----------------------------------------------------------------------------------


def test_a_ticket_about_nothing_reaches_the_operator(alice: User, root: User) -> None:
    ticket = ask(alice)
    assert (ticket.state, ticket.first_line, ticket.is_with_staff) == ("waiting", None, True)
    assert ticket.waiting_since == ticket.created_at
    assert re.fullmatch(r"\d{6}[2-9A-Z]{8}", ticket.number)
    assert mailed("ticket_opened") == ["root@example.com"]
    assert AuditEntry.objects.filter(event="ticket.opened", actor=alice, target_id=str(ticket.pk)).count() == 1


@pytest.mark.usefixtures("boxed")
def test_a_ticket_about_something_with_a_first_line_reaches_only_that(alice: User, rita: User, root: User) -> None:
    ticket = ask(alice, about_box=True)
    assert (ticket.first_line, ticket.with_staff_since) == (rita, None)
    assert mailed("ticket_opened") == ["rita@example.com"]
    assert "alice" not in last_mail("ticket_opened").body_text, "sellers get no names of customers"


@pytest.mark.usefixtures("boxed")
def test_nobody_is_their_own_first_line(rita: User, root: User) -> None:
    assert ask(rita, about_box=True).first_line is None


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize("change", [{"role": "user"}, {"is_active": False}])
def test_who_is_suspended_or_switched_off_is_nobodys_first_line(alice: User, rita: User, change: Any) -> None:
    User.objects.filter(pk=rita.pk).update(**change)
    assert ask(alice, about_box=True).first_line is None


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize("about", ["box:{bob}", "box:0", "box:", "shoe:1", "box", "lease:1", "lease:x", "order:1"])
def test_one_asks_about_ones_own_things_only(alice: User, bob: User, about: str) -> None:
    about = about.format(bob=bob.pk)
    refusal = refused("not_found", services.open_ticket, user=alice, subject="x", text="y", about=about, actor=alice)
    assert refusal.status == 404
    assert not Ticket.objects.exists()


@pytest.mark.parametrize("text", ["", "   ", "\n\t\r\n", "\0"])
def test_an_empty_message_is_refused_in_words(alice: User, text: str) -> None:
    refusal = refused("invalid_input", services.open_ticket, user=alice, subject="x", text=text, actor=alice)
    assert refusal.extra["fields"][0]["field"] == "text"
    ticket = ask(alice)
    refused("invalid_input", services.reply, ticket_id=ticket.pk, text=text, actor=alice)
    assert ticket.messages.count() == 1


def test_what_is_too_long_is_refused_and_line_breaks_stay(alice: User) -> None:
    refused("invalid_input", services.open_ticket, user=alice, subject="x" * 121, text="y", actor=alice)
    refused("invalid_input", services.open_ticket, user=alice, subject=" \n ", text="y", actor=alice)
    refused("invalid_input", services.open_ticket, user=alice, subject="x", text="y" * 10_001, actor=alice)
    ticket = ask(alice, "one\r\ntwo\r\rthree", subject="a\nb   c")
    assert ticket.subject == "a b c"
    assert ticket.messages.get().text == "one\ntwo\n\nthree"


def test_the_same_key_opens_once_and_writes_once(alice: User, bob: User) -> None:
    said: dict[str, Any] = {"subject": "x", "text": "y", "client_key": "k"}
    first = services.open_ticket(user=alice, actor=alice, **said)
    assert services.open_ticket(user=alice, actor=alice, **said) == first
    assert services.open_ticket(user=bob, actor=bob, **said) != first
    answers = [services.reply(ticket_id=first.pk, text="z", client_key="k", actor=alice) for _time in range(2)]
    assert answers[0] == answers[1]
    assert first.messages.count() == 2


def test_nobody_has_more_than_twenty_tickets_open(alice: User) -> None:
    tickets = [ask(alice) for _number in range(MOST_OPEN)]
    with time_machine.travel(now() + timedelta(hours=2)):
        refused("too_many_tickets", services.open_ticket, user=alice, subject="x", text="y", actor=alice)
        services.close_ticket(ticket_id=tickets[0].pk, actor=alice)
        ask(alice)


def test_who_opens_too_many_within_an_hour_has_to_wait(alice: User) -> None:
    with time_machine.travel(START, tick=False):
        for _number in range(MOST_OPENED_IN_AN_HOUR):
            services.close_ticket(ticket_id=ask(alice).pk, actor=alice)
        with pytest.raises(RateLimited):
            ask(alice)


def test_a_closed_account_asks_nothing(alice: User) -> None:
    services.deactivate_user(user_id=alice.pk, actor=None)
    refused("account_inactive", services.open_ticket, user=alice, subject="x", text="y", actor=alice)


# --- to and fro ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("boxed")
def test_customer_and_seller_write_to_each_other(alice: User, rita: User, root: User) -> None:
    ticket = write(ask(alice, about_box=True), rita, "Try again.")
    assert (ticket.state, ticket.waiting_since, ticket.is_with_staff) == ("answered", None, False)
    assert mailed("ticket_answered") == ["alice@example.com"]
    assert "your seller has answered" in last_mail("ticket_answered").body_text
    ticket = write(ticket, alice, "Still broken.")
    assert ticket.state == "waiting"
    assert mailed("ticket_message") == ["rita@example.com"]
    assert [message.side for message in ticket.messages.all()] == ["customer", "seller", "customer"]


@pytest.mark.usefixtures("boxed")
def test_staff_who_answer_take_the_ticket_over(alice: User, rita: User, root: User) -> None:
    ticket = write(ask(alice, about_box=True), root, "We looked into it.")
    assert ticket.is_with_staff
    assert "the operator has answered" in last_mail("ticket_answered").body_text
    ticket = write(ticket, alice, "Thanks, but no.")
    assert mailed("ticket_message") == ["root@example.com"]
    ticket = write(ticket, rita, "I can help.")
    assert ticket.state == "waiting", "the seller may still answer, but the operator is asked"
    assert mailed("ticket_answered") == ["alice@example.com"] * 2


def test_a_second_message_does_not_begin_the_wait_anew(alice: User) -> None:
    ticket = ask(alice)
    with time_machine.travel(now() + timedelta(hours=3)):
        assert write(ticket, alice, "Hello?").waiting_since == ticket.waiting_since


def test_strangers_can_do_nothing(alice: User, bob: User, rita: User) -> None:
    ticket = ask(alice)
    for stranger in (bob, rita):
        refused("not_found", services.reply, ticket_id=ticket.pk, text="x", actor=stranger)
        refused("not_found", services.pass_on, ticket_id=ticket.pk, actor=stranger)
        refused("not_found", services.close_ticket, ticket_id=ticket.pk, actor=stranger)
        refused("not_found", services.add_note, ticket_id=ticket.pk, text="x", actor=stranger)
    refused("not_found", services.add_note, ticket_id=ticket.pk, text="x", actor=alice)
    refused("not_found", services.reply, ticket_id=0, text="x", actor=alice)


@pytest.mark.usefixtures("boxed")
def test_a_suspended_seller_can_do_nothing_any_more(alice: User, rita: User) -> None:
    ticket = ask(alice, about_box=True)
    User.objects.filter(pk=rita.pk).update(role="user")
    # Her browser's user is of before.
    for verb in (services.pass_on, services.close_ticket):
        refused("not_found", verb, ticket_id=ticket.pk, actor=rita)
    refused("not_found", services.reply, ticket_id=ticket.pk, text="x", actor=rita)


@pytest.mark.usefixtures("boxed")
def test_what_is_written_while_the_seller_is_gone_reaches_the_operator_at_once(
    alice: User, rita: User, root: User
) -> None:
    ticket = write(ask(alice, about_box=True), rita, "Try again.")
    User.objects.filter(pk=rita.pk).update(is_active=False)
    ticket = write(ticket, alice, "Still broken.")
    assert ticket.is_with_staff
    assert mailed("ticket_message") == ["root@example.com"]


# --- closing ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("boxed")
def test_closing_twice_is_fine_and_writing_opens_it_again(alice: User, rita: User) -> None:
    ticket = ask(alice, about_box=True)
    services.close_ticket(ticket_id=ticket.pk, actor=alice)
    closed = services.close_ticket(ticket_id=ticket.pk, actor=alice)
    assert (closed.state, closed.waiting_since) == ("closed", None)
    assert mailed("ticket_closed") == [], "who closed it knows"
    assert AuditEntry.objects.filter(event="ticket.closed").count() == 1
    ticket = write(ticket, alice, "It is back.")
    assert (ticket.state, ticket.closed_at) == ("waiting", None)
    assert AuditEntry.objects.filter(event="ticket.reopened").count() == 1
    services.close_ticket(ticket_id=ticket.pk, actor=rita)
    assert mailed("ticket_closed") == ["alice@example.com"]
    assert "your seller has closed" in last_mail("ticket_closed").body_text


def test_after_thirty_days_a_new_one_has_to_be_opened(alice: User, root: User) -> None:
    ticket = ask(alice)
    services.close_ticket(ticket_id=ticket.pk, actor=root)
    with time_machine.travel(now() + REOPENED_WITHIN - timedelta(hours=1)):
        services.reply(ticket_id=ticket.pk, text="Once more.", actor=alice)
        services.close_ticket(ticket_id=ticket.pk, actor=root)
    with time_machine.travel(now() + 2 * REOPENED_WITHIN):
        for actor in (alice, root):
            refusal = refused("ticket_closed", services.reply, ticket_id=ticket.pk, text="x", actor=actor)
            assert "open a new one" in str(refusal)


@pytest.mark.usefixtures("boxed")
def test_the_seller_closes_only_what_nobody_else_has(alice: User, rita: User) -> None:
    ticket = ask(alice, about_box=True)
    services.pass_on(ticket_id=ticket.pk, actor=rita)
    refused("with_staff", services.close_ticket, ticket_id=ticket.pk, actor=rita)
    services.close_ticket(ticket_id=ticket.pk, actor=alice)
    refused("ticket_closed", services.pass_on, ticket_id=ask_and_close(alice).pk, actor=alice)


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize(("who", "state"), [("alice", "waiting"), ("rita", "waiting"), ("root", "answered")])
def test_who_asks_for_the_operator_after_an_answer_waits_for_them(
    alice: User, rita: User, root: User, who: str, state: str
) -> None:
    ticket = ask(alice, about_box=True)
    services.reply(ticket_id=ticket.pk, text="Have you tried turning it off and on?", actor=rita)
    services.pass_on(ticket_id=ticket.pk, actor=User.objects.get(username=who))
    assert again(ticket).state == state
    assert (again(ticket).queue == Ticket.Queue.STAFF) == (state == "waiting")


def ask_and_close(user: User) -> Ticket:
    return services.close_ticket(ticket_id=ask(user, about_box=True).pk, actor=user)


# --- passing on ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize(
    ("who", "told_staff", "told_customer"),
    [
        ("alice", "asks for the operator", ""),
        ("rita", "has passed it on", "passed your ticket on"),
        ("root", "", "taken"),
    ],
)
def test_customer_seller_and_staff_pass_it_on_and_the_others_are_told(
    alice: User, rita: User, root: User, who: str, told_staff: str, told_customer: str
) -> None:
    ticket = ask(alice, about_box=True)
    for _time in range(2):
        services.pass_on(ticket_id=ticket.pk, actor=User.objects.get(username=who))
    assert again(ticket).is_with_staff
    for kind, words, reader in (
        ("ticket_passed_on", told_staff, "root"),
        ("ticket_with_staff", told_customer, "alice"),
    ):
        assert mailed(kind) == ([f"{reader}@example.com"] if words else [])
        assert not words or words in last_mail(kind).body_text


@pytest.mark.usefixtures("boxed")
def test_what_the_seller_leaves_for_a_day_goes_to_the_operator(alice: User, rita: User, root: User) -> None:
    with time_machine.travel(START, tick=False) as clock:
        ticket, answered = ask(alice, about_box=True), ask(alice, about_box=True)
        write(answered, rita, "Try again.")
        clock.shift(timedelta(hours=23, minutes=59))
        assert services.pass_on_overdue() == 0
        clock.shift(timedelta(minutes=1))
        pass_on_tickets()
        assert again(ticket).with_staff_since == now()
        assert services.pass_on_overdue() == 0
    assert not again(answered).is_with_staff
    assert "did not answer in time" in last_mail("ticket_passed_on").body_text
    assert mailed("ticket_passed_on") == ["root@example.com"]
    assert mailed("ticket_with_staff") == ["alice@example.com"]


@pytest.mark.usefixtures("boxed")
def test_a_ticket_that_cannot_be_passed_on_is_in_nobodys_way(
    alice: User, rita: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, fine = ask(alice, about_box=True), ask(alice, about_box=True)
    pass_on = tickets._pass_on

    def stumble(ticket: Ticket, **options: Any) -> None:
        if ticket.pk == broken.pk:
            raise RuntimeError("a mail that cannot be written")
        pass_on(ticket, **options)

    monkeypatch.setattr(tickets, "_pass_on", stumble)
    with time_machine.travel(now() + timedelta(hours=25)):
        assert services.pass_on_overdue(limit=1) == 1
    assert [again(one).is_with_staff for one in (broken, fine)] == [False, True]


def test_a_used_key_with_other_words_is_refused_and_nothing_is_lost_unsaid(alice: User) -> None:
    said: dict[str, Any] = {"user": alice, "subject": "x", "client_key": "k", "actor": alice}
    ticket = services.open_ticket(text="one", **said)
    assert services.open_ticket(text="one", **said) == ticket
    refused("key_used", services.open_ticket, text="two", **said)
    for _time in range(2):
        services.reply(ticket_id=ticket.pk, text="more", client_key="r", actor=alice)
    refused("key_used", services.reply, ticket_id=ticket.pk, text="else", client_key="r", actor=alice)
    assert [one.text for one in ticket.messages.all()] == ["one", "more"]


def test_writing_into_closed_tickets_does_not_pass_by_the_limit(alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tickets, "MOST_OPEN", 1)
    closed = ask(alice)
    services.close_ticket(ticket_id=closed.pk, actor=alice)
    ask(alice)
    refused("too_many_tickets", services.reply, ticket_id=closed.pk, text="x", actor=alice)
    assert again(closed).is_closed


@pytest.mark.usefixtures("boxed")
def test_the_time_sellers_have_is_a_setting(alice: User, settings: Any) -> None:
    settings.TICKET_FIRST_LINE_HOURS = 2
    ask(alice, about_box=True)
    with time_machine.travel(now() + timedelta(hours=2, minutes=1)):
        assert services.pass_on_overdue() == 1


@pytest.mark.usefixtures("boxed")
@pytest.mark.parametrize("change", [{"role": "user"}, {"is_active": False}])
def test_what_waits_for_a_seller_who_is_none_any_more_goes_to_the_operator_at_once(
    alice: User, rita: User, root: User, change: Any
) -> None:
    ticket = ask(alice, about_box=True)
    assert services.pass_on_overdue() == 0
    User.objects.filter(pk=rita.pk).update(**change)
    assert services.pass_on_overdue() == 1
    assert again(ticket).is_with_staff
    assert "cannot answer any more" in last_mail("ticket_passed_on").body_text


@pytest.mark.usefixtures("boxed")
def test_tickets_follow_to_another_first_line_or_to_the_operator(
    alice: User, rita: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    oscar = make_user("oscar", role="reseller")
    ticket, closed = ask(alice, about_box=True), ask(alice, about_box=True)
    services.close_ticket(ticket_id=closed.pk, actor=alice)
    about = f"box:{alice.pk}"
    teach_boxes(monkeypatch, oscar)
    assert services.follow_subject(about=about, actor=root) == 2
    assert services.follow_subject(about=about, actor=root) == 0
    assert (again(ticket).first_line, again(ticket).is_with_staff) == (oscar, False)
    assert mailed("ticket_opened")[-1] == "oscar@example.com"
    refused("not_found", services.reply, ticket_id=ticket.pk, text="x", actor=rita)
    teach_boxes(monkeypatch, None)
    assert services.follow_subject(about=about, actor=root) == 2
    assert (again(ticket).first_line, again(ticket).is_with_staff) == (None, True)
    assert "belongs to the operator now" in last_mail("ticket_passed_on").body_text
    assert again(closed).is_closed
    assert len(mailed("ticket_opened")) == 3, "nobody is told of what is closed"


def test_a_closed_ticket_opens_again_with_whoever_is_asked_first_now(
    alice: User, rita: User, root: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach_boxes(monkeypatch, rita)
    ticket, other = ask_and_close(alice), ask_and_close(alice)
    oscar = make_user("oscar", role="reseller")
    teach_boxes(monkeypatch, oscar)
    assert write(ticket, alice, "It is back.").first_line == oscar
    assert mailed("ticket_message") == ["oscar@example.com"]
    teach_boxes(monkeypatch, None)
    reopened = write(other, alice, "It is back.")
    assert (reopened.first_line, reopened.is_with_staff) == (None, True)


# --- notes and mails ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("boxed")
def test_an_internal_note_reaches_neither_mail_nor_customer_nor_seller(
    alice: User, rita: User, root: User, alices: Client, ritas: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = ask(alice, about_box=True)
    before = (again(ticket).last_message_at, Notification.objects.count())
    services.add_note(ticket_id=ticket.pk, text=SECRET, actor=root)
    assert (again(ticket).last_message_at, Notification.objects.count()) == before
    assert not again(ticket).is_with_staff
    write(ticket, root, "We looked into it.")
    write(ticket, alice, "And?")
    for seller in (make_user("oscar", role="reseller"), rita):
        teach_boxes(monkeypatch, seller)
        assert services.follow_subject(about=ticket.about, actor=root) == 1
    services.close_ticket(ticket_id=ticket.pk, actor=root)
    assert not Notification.objects.filter(body_text__contains=SECRET).exists()
    for browser in (alices, ritas):
        for name in ("ticket", "ticket_live"):
            assert SECRET not in browser.get(page(name, ticket)).content.decode()


def test_a_message_cannot_forge_parts_of_a_mail(alice: User, root: User) -> None:
    ask(alice, "Hi\n\nReason: none\n\nButton: Click\n\n-- \nThe bank", subject="x\n\nReason: y")
    mail = last_mail("ticket_opened")
    assert "> Hi\n>\n> Reason: none\n>\n> Button: Click" in mail.body_text
    assert "because you answer tickets for the operator" in mail.body_text
    assert f"/admin/accounts/ticket/{Ticket.objects.get().pk}/change/" in mail.body_text
    assert mail.subject.endswith("x Reason: y")


def test_a_long_message_is_cut_in_the_mail_only(alice: User, root: User) -> None:
    ask(alice, "x" * 9000 + "end")
    assert "end" not in last_mail("ticket_opened").body_text.split("> ")[1].split("\n")[0]
    assert TicketMessage.objects.get().text.endswith("end")


def test_staff_are_told_who_may_look_at_tickets(alice: User, root: User) -> None:
    make_user("helen", role="admin")
    make_user("gone", role="admin", is_superuser=True, is_active=False)
    ask(alice)
    assert mailed("ticket_opened") == ["root@example.com"]


def test_an_address_for_support_is_told_in_its_own_language(bob: User, root: User, settings: Any) -> None:
    settings.SUPPORT_EMAIL = ["desk@example.com", "ROOT@example.com"]
    User.objects.filter(pk=root.pk).update(language="zh-hans")
    browser = Client()
    browser.force_login(bob)  # Who reads Chinese.
    browser.post("/tickets/new/", {"about": "", "subject": "x", "text": "y"})
    told = {one.recipient: one.language for one in Notification.objects.filter(kind="ticket_opened")}
    assert told == {"desk@example.com": "en", "root@example.com": "zh-hans"}


# --- what the database promises -----------------------------------------------------------------------


@pytest.mark.both_databases
@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "lost", "waiting_since": None},
        {"with_staff_since": None},
        {"waiting_since": None},
        {"state": "closed", "waiting_since": None},
        {"closed_at": "2027-01-01T00:00:00Z"},
        {"first_line": "customer"},
    ],
)
def test_the_database_refuses_a_ticket_that_makes_no_sense(alice: User, wrong: dict[str, Any]) -> None:
    ticket = ask(alice)
    if wrong.get("first_line"):
        wrong = {"first_line": alice}
    with pytest.raises(IntegrityError), transaction.atomic():
        Ticket.objects.filter(pk=ticket.pk).update(**wrong)


@pytest.mark.both_databases
def test_the_database_knows_sides_and_whose_notes_are(alice: User) -> None:
    ticket = ask(alice)
    for wrong in ({"side": "customer", "is_note": True}, {"side": "nobody"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            TicketMessage.objects.create(ticket=ticket, author=alice, text="x", **wrong)
    message = ticket.messages.get()
    with pytest.raises(Unchangeable):
        message.save()


@pytest.mark.both_databases
@pytest.mark.usefixtures("boxed")
def test_the_queue_says_whose_turn_it_is(alice: User, rita: User, root: User) -> None:
    ticket = ask(alice, about_box=True)
    turns = [again(ticket).queue]
    services.pass_on(ticket_id=ticket.pk, actor=alice)
    turns.append(again(ticket).queue)
    write(ticket, root, "Done.")
    turns.append(again(ticket).queue)
    services.close_ticket(ticket_id=ticket.pk, actor=alice)
    turns.append(again(ticket).queue)
    assert turns == [Ticket.Queue.FIRST_LINE, Ticket.Queue.STAFF, Ticket.Queue.ANSWERED, Ticket.Queue.CLOSED]


# --- pages --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("boxed")
def test_a_customer_asks_on_the_page_and_is_told_before_who_reads_it(alices: Client, alice: User, rita: User) -> None:
    empty = alices.get("/tickets/new/").content.decode()
    assert "The operator of this portal reads this" in empty
    chosen = alices.get(f"/tickets/new/?about=box:{alice.pk}").content.decode()
    assert "Your seller reads this first; the operator sees it too" in chosen
    assert f'<option value="box:{alice.pk}" selected>' in chosen
    said = {"about": f"box:{alice.pk}", "subject": "No light", "text": "It is dark.\n<b>Very</b> dark."}
    sent = alices.post("/tickets/new/", {**said, "client_key": "abc"}, follow=True)
    ticket = Ticket.objects.get()
    assert ticket.first_line == rita
    assert sent.redirect_chain[-1][0] == page("ticket", ticket)
    shown = sent.content.decode()
    assert "It is dark.<br>&lt;b&gt;Very&lt;/b&gt; dark." in shown
    assert '<a href="/dashboard/">Box ' in shown
    alices.post("/tickets/new/", {**said, "client_key": "abc"})
    assert Ticket.objects.count() == 1, "a double click opens one"


def test_what_was_typed_stays_in_the_form_when_something_is_wrong(alices: Client, alice: User) -> None:
    shown = alices.post("/tickets/new/", {"about": "", "subject": "No light", "text": "  "}).content.decode()
    assert "the message is empty" in shown
    assert 'value="No light"' in shown
    for _number in range(MOST_OPEN):
        Ticket.objects.create(number=f"T{_number}", customer=alice, with_staff_since=now(), waiting_since=now())
    shown = alices.post("/tickets/new/", {"subject": "No light", "text": "It is dark."}).content.decode()
    assert "20 tickets that are not closed" in shown
    assert "It is dark." in shown
    ticket = Ticket.objects.first()
    assert ticket is not None
    shown = alices.post(page("ticket", ticket), {"text": "   "}).content.decode()
    assert "the message is empty" in shown


def test_a_choice_of_somebody_elses_is_refused(alices: Client, boxed: None, bob: User) -> None:
    shown = alices.get(f"/tickets/new/?about=box:{bob.pk}").content.decode()
    assert f'value="box:{bob.pk}"' not in shown
    alices.post("/tickets/new/", {"about": f"box:{bob.pk}", "subject": "x", "text": "y"})
    assert not Ticket.objects.exists()


def test_the_thread_is_its_customers_alone(alice: User, bob: User, rita: User, root: User) -> None:
    ticket = ask(alice)
    for stranger in (bob, rita, root):
        browser = Client()
        browser.force_login(stranger)
        for name in ("ticket", "ticket_live", "ticket_close", "ticket_pass_on"):
            assert browser.get(page(name, ticket)).status_code == 404
            assert browser.post(page(name, ticket), {"text": "x"}).status_code in (404, 405)
    assert Client().get(page("ticket", ticket)).status_code == 302
    assert Client().get(page("ticket_live", ticket)).status_code == 401


@pytest.mark.usefixtures("boxed")
def test_the_seller_reads_and_answers_without_learning_who_asks(alice: User, rita: User, ritas: Client) -> None:
    ticket = ask(alice, about_box=True)
    shown = ritas.get(page("ticket", ticket)).content.decode()
    assert "Customer" in shown
    assert "alice" not in shown
    assert "Box" in shown
    assert "(shut)" in shown
    assert "Pass on to the operator" in shown
    ritas.post(page("ticket", ticket), {"text": "Try again."})
    assert again(ticket).state == "answered"
    assert "This cannot be taken back" in ritas.get(page("ticket_pass_on", ticket)).content.decode()
    assert not again(ticket).is_with_staff, "asking changes nothing"
    ritas.post(page("ticket_pass_on", ticket))
    assert again(ticket).is_with_staff
    shown = ritas.get(page("ticket", ticket)).content.decode()
    assert "Pass on to the operator" not in shown
    assert page("ticket_close", ticket) not in shown
    User.objects.filter(pk=rita.pk).update(role="user")
    assert ritas.get(page("ticket", ticket)).status_code == 404


@pytest.mark.usefixtures("boxed")
def test_a_customer_asks_the_operator_instead_and_closes(alices: Client, alice: User) -> None:
    ticket = ask(alice, about_box=True)
    assert "Ask the operator instead" in alices.get(page("ticket", ticket)).content.decode()
    alices.post(page("ticket_pass_on", ticket))
    assert again(ticket).is_with_staff
    assert alices.get(page("ticket_close", ticket)).status_code == 200
    assert again(ticket).state == "waiting", "asking changes nothing"
    alices.post(page("ticket_close", ticket))
    assert again(ticket).state == "closed"
    assert alices.get(page("ticket_close", ticket)).status_code == 302
    shown = alices.get(page("ticket", ticket)).content.decode()
    assert "What you write opens it again" in shown
    Ticket.objects.update(closed_at=now() - REOPENED_WITHIN)
    assert "Open a new one" in alices.get(page("ticket", ticket)).content.decode()


def test_the_thread_asks_for_itself_and_gets_only_what_is_new(alices: Client, alice: User, root: User) -> None:
    ticket = ask(alice)
    shown = alices.get(page("ticket", ticket)).content.decode()
    found = re.search(r'hx-get="([^"]+/live/\?have=[^"]+)"', shown)
    assert found is not None
    assert alices.get(found[1]).status_code == 204
    services.add_note(ticket_id=ticket.pk, text=SECRET, actor=root)
    assert alices.get(found[1]).status_code == 204, "not even that there is a note"
    write(ticket, root, "Here we are.")
    part = alices.get(found[1]).content.decode()
    assert "Here we are." in part
    assert "<form" not in part, "what is being typed stays"


def test_the_list_can_be_searched_and_filtered(alices: Client, alice: User, bob: User, root: User) -> None:
    dark, cold = ask(alice, subject="Too dark"), ask(alice, subject="Too cold")
    ask(bob, subject="Too dark for bob")
    write(cold, root, "Put on a coat.")
    listed = {
        query: [
            name
            for name in ("Too dark", "Too cold", "for bob")
            if name in alices.get(f"/tickets/?{query}").content.decode()
        ]
        for query in ("", "search=cold", f"search={dark.number[:9].lower()}", "state=answered", "state=closed")
    }
    assert listed[""] == ["Too dark", "Too cold"]
    assert listed["search=cold"] == listed["state=answered"] == ["Too cold"]
    assert "Too dark" in listed[f"search={dark.number[:9].lower()}"]
    assert listed["state=closed"] == []


def test_the_list_and_a_thread_take_the_same_queries_however_long(
    alices: Client, alice: User, root: User, django_assert_max_num_queries: Any
) -> None:
    ticket = ask(alice)
    for number in range(30):
        Ticket.objects.create(number=f"T{number}", customer=alice, with_staff_since=now(), waiting_since=now())
        TicketMessage.objects.create(ticket=ticket, author=root, side="staff", text=f"m{number}")
    with django_assert_max_num_queries(6):
        assert "?page=2" in alices.get("/tickets/").content.decode()
    with django_assert_max_num_queries(5):
        assert "m29" in alices.get(page("ticket", ticket)).content.decode()


def test_support_is_in_everybodys_menu(alices: Client) -> None:
    assert 'href="/tickets/"' in alices.get(reverse("profile")).content.decode()
