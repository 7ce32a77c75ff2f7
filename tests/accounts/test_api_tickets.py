"""Tickets by the API: the same as on the pages, for customers, the seller who is asked first, and staff."""

from __future__ import annotations

from typing import Any

import pytest

from accounts import services
from accounts.models import Notification, Ticket, User
from tests.accounts.helpdesk import again, ask, teach_boxes, write
from tests.api_client import Caller

pytestmark = pytest.mark.django_db
FIELDS = {
    *("number", "subject", "about", "state", "role", "customer", "has_seller", "is_with_operator"),
    *("waiting_since", "last_message_at", "closed_at", "created_at"),
}


@pytest.fixture
def boxed(monkeypatch: pytest.MonkeyPatch, rita: User) -> None:
    """Everybody has a box; rita is asked first about all of them."""
    teach_boxes(monkeypatch, rita)


@pytest.mark.usefixtures("boxed")
def test_a_customer_asks_reads_writes_passes_on_and_closes(alice: User, rita: User) -> None:
    program = Caller(alice, "account")
    said = {"subject": "No light", "text": "It is dark.", "about": f"box:{alice.pk}", "client_key": "7"}
    status, answer = program.post("ticket/create", **said)
    assert (status, set(answer["ticket"])) == (200, FIELDS)
    ticket = answer["ticket"]
    told = {name: ticket[name] for name in ("state", "role", "customer", "has_seller", "is_with_operator")}
    assert told == {
        "state": "waiting",
        "role": "customer",
        "customer": "alice",
        "has_seller": True,
        "is_with_operator": False,
    }
    number = ticket["number"]
    assert program.post("ticket/create", **said)[1]["ticket"]["number"] == number
    assert program.get("ticket/list")[1]["items"] == [ticket]
    write(Ticket.objects.get(), rita, "Try again.")
    answer = program.get("ticket/show", number=number)[1]
    assert answer["ticket"]["state"] == "answered"
    assert [(one["side"], one["is_mine"], one["text"]) for one in answer["messages"]] == [
        ("customer", True, "It is dark."),
        ("seller", False, "Try again."),
    ]
    for _time in range(2):
        answer = program.post("ticket/reply", number=number, text="Still dark.", client_key="8")[1]
    assert answer["ticket"]["state"] == "waiting"
    assert Ticket.objects.get().messages.count() == 3
    assert program.post("ticket/pass_on", number=number)[1]["ticket"]["is_with_operator"] is True
    assert program.post("ticket/close", number=number.lower())[1]["ticket"]["state"] == "closed"


@pytest.mark.usefixtures("boxed")
def test_the_seller_lists_what_reached_them_first_and_answers_without_learning_who_asks(
    alice: User, bob: User, rita: User
) -> None:
    ticket, program = ask(alice, about_box=True), Caller(rita, "account")
    ask(bob)
    assert program.get("ticket/list")[1]["items"] == []
    [found] = program.get("ticket/list", role="seller")[1]["items"]
    assert (found["number"], found["role"], found["customer"]) == (ticket.number, "seller", "al***@e***.com")
    assert "alice" not in str(program.get("ticket/show", number=ticket.number))
    assert program.post("ticket/reply", number=ticket.number, text="Try again.")[1]["ticket"]["state"] == "answered"
    assert program.post("ticket/pass_on", number=ticket.number)[0] == 200
    status, answer = program.post("ticket/close", number=ticket.number)
    assert (status, answer["error"]["code"]) == (409, "with_staff")
    User.objects.filter(pk=rita.pk).update(role="user")
    assert program.get("ticket/list", role="seller")[1]["items"] == []
    assert program.get("ticket/show", number=ticket.number)[0] == 404
    assert program.post("ticket/reply", number=ticket.number, text="x")[0] == 404


@pytest.mark.usefixtures("boxed")
def test_staff_see_all_with_notes_and_in_the_order_of_their_list(
    alice: User, bob: User, rita: User, root: User
) -> None:
    with_seller, answered, waiting = ask(alice, about_box=True), ask(bob), ask(bob)
    write(answered, root, "Done.")
    services.add_note(ticket_id=waiting.pk, text="a secret", actor=root)
    program = Caller(root, "account", "staff")
    listed = [one["number"] for one in program.get("ticket/list")[1]["items"]]
    assert listed == [waiting.number, with_seller.number, answered.number]
    assert program.get("ticket/list", role="customer")[1]["items"] == []
    assert [one["number"] for one in program.get("ticket/list", user_id=alice.pk)[1]["items"]] == [with_seller.number]
    assert "a secret" in str(program.get("ticket/show", number=waiting.number))
    for person in (alice, bob, rita):
        assert "a secret" not in str(Caller(person).get("ticket/show", number=waiting.number))
    answer = program.post("ticket/reply", number=with_seller.number, text="We looked.")[1]["ticket"]
    assert (answer["role"], answer["is_with_operator"], answer["customer"]) == ("staff", True, "alice")
    # Without the scope an administrator's token is a customer's.
    assert Caller(root, "account").get("ticket/list")[1]["items"] == []
    assert Caller(root, "account").post("ticket/reply", number=waiting.number, text="x")[0] == 404


def test_the_list_filters_and_pages(alice: User, root: User) -> None:
    program = Caller(alice, "account")
    tickets = [ask(alice, subject=f"number {number}") for number in range(5)]
    write(tickets[0], root, "Done.")

    def numbers(**query: Any) -> list[str]:
        return [one["number"] for one in program.get("ticket/list", **query)[1]["items"]]

    assert numbers(state="answered") == [tickets[0].number]
    assert numbers(q="number 3") == [tickets[3].number]
    assert numbers(q=tickets[2].number.lower()) == [tickets[2].number]
    assert numbers(about="box:1") == []
    assert len(numbers(per_page=2, page=3)) == 1
    assert program.get("ticket/list", per_page=2)[1]["pages"] == 3
    assert program.get("ticket/list", state="lost")[0] == 422


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"subject": "x"}, 422, "invalid_input"),
        ({"subject": "x", "text": "  "}, 422, "invalid_input"),
        ({"subject": "x" * 121, "text": "y"}, 422, "invalid_input"),
        ({"subject": "x", "text": "y", "about": "lease:999"}, 404, "not_found"),
    ],
)
def test_what_is_wrong_is_refused_in_the_envelope(alice: User, sent: dict[str, Any], status: int, code: str) -> None:
    answered, answer = Caller(alice, "account").post("ticket/create", **sent)
    assert (answered, answer["error"]["code"]) == (status, code)
    assert not Ticket.objects.exists()


def test_staff_write_notes_that_nobody_else_reads(alice: User, rita: User, root: User) -> None:
    ticket, told = ask(alice), Notification.objects.count()
    said = {"number": ticket.number, "text": "The same host as last week."}
    assert Caller(root, "staff").post("ticket/note", **said)[1]["ticket"]["state"] == "waiting"
    assert Notification.objects.count() == told
    for user, notes in ((root, [False, True]), (alice, [False])):
        program = Caller(user, "account", *(["staff"] if user.is_staff else []))
        messages = program.get("ticket/show", number=ticket.number)[1]["messages"]
        assert [message["is_note"] for message in messages] == notes
    assert Caller(alice, "account").post("ticket/note", **said)[0] == 403
    assert Caller(root, "staff").post("ticket/note", number="310531ZZZZZZZZ", text="x")[0] == 404


def test_it_needs_the_scope_of_the_account(alice: User) -> None:
    ticket = ask(alice)
    program = Caller(alice, "orders")
    assert program.get("ticket/list")[0] == 403
    assert program.post("ticket/close", number=ticket.number)[0] == 403
    assert again(ticket).state == "waiting"


def test_the_list_takes_the_same_queries_however_long(
    alice: User, root: User, django_assert_max_num_queries: Any
) -> None:
    for _number in range(15):
        ask(alice)
    program = Caller(root, "account", "staff")
    with django_assert_max_num_queries(8):
        assert program.get("ticket/list")[1]["total"] == 15
