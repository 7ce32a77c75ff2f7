"""A reseller never sees or touches another's stock, customers or money: every way in, tried by another reseller."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from accounts.models import Ticket, TicketMessage, User
from accounts.services import open_ticket
from billing.models import Order, Posting, SoldSerial
from resellers.models import Attribution, CommissionLine, LeaseContact, Resale, Reseller, Settlement
from serials.codes import grouped
from serials.models import Plan, SerialNumber
from tests.api_client import Caller, make_server
from tests.billing.till import priced_plan
from tests.conftest import make_user
from tests.resellers.desk import ACCOUNT, Trade, everything, put_in_trade
from tests.test_access import OPERATIONS, For, routes

pytestmark = pytest.mark.django_db

RESELLERS_OWN = (For.RESELLER, For.RESELLER_AND_STAFF, For.APPLICANT)
Sent = Callable[[Trade], list[dict[str, Any]]]


@pytest.fixture
def plan(db: None) -> Plan:
    """A plan of thirty days for ¥100, which both sell."""
    make_server()
    return priced_plan(30, 10_000)


@pytest.fixture
def ritas(rita: User, plan: Plan) -> Trade:
    """All that rita has."""
    return with_a_ticket(put_in_trade(rita, plan))


@pytest.fixture
def ruths(ritas: Trade, plan: Plan) -> Trade:
    """All that ruth has: she tries to get at what is rita's."""
    return with_a_ticket(put_in_trade(make_user("ruth", language="en"), plan))


def with_a_ticket(trade: Trade) -> Trade:
    """The tenant has asked something, which reached the reseller."""
    about, subject = f"lease:{trade.lease.pk}", f"question of {trade.reseller.user.username}"
    open_ticket(user=trade.tenant, subject=subject, text="It is dark.", about=about, actor=trade.tenant)
    return trade


def marks_of(trade: Trade) -> set[str]:
    """What would give away that something of that reseller's was shown, written in any way."""
    people = [trade.customer, trade.tenant, trade.reseller.user]
    return {
        *trade.codes,
        *(grouped(code) for code in trade.codes),
        *trade.orders,
        *(person.email for person in people),
        *(person.username for person in people),
        trade.reseller.code,
        f"walk-in of {trade.reseller.user.username}",
        f"note of {trade.reseller.user.username}",
        f"question of {trade.reseller.user.username}",
        ACCOUNT,
    }


def shows(text: str, trade: Trade, besides: Trade) -> set[str]:
    return {mark for mark in marks_of(trade) - marks_of(besides) if mark in text}


# --- the API -----------------------------------------------------------------------------------------

NAMED: dict[str, Sent] = {
    "GET reseller/settlement/{settlement_id}": lambda his: [{"settlement_id": his.settlement.pk}],
    "GET reseller/commission": lambda his: [{"reseller_id": his.reseller.pk}],
    "GET reseller/settlements": lambda his: [{"reseller_id": his.reseller.pk}],
    "GET reseller/serial": lambda his: [{"code": code} for code in his.codes],
    "POST reseller/recall": lambda his: [{"codes": [code]} for code in his.codes] + [{"codes": his.codes}],
    "POST reseller/sales": lambda his: [{"code": code, "price": "1"} for code in his.codes],
    "POST reseller/sale/remove": lambda his: [{"code": code} for code in his.codes],
}
"""Operations that name something: all that is another's is answered 404, and nothing changes."""
LISTED: dict[str, Sent] = {
    "GET reseller/me": lambda his: [{}],
    "GET reseller/customers": lambda his: [{}, {"reseller_id": his.reseller.pk}],
    "GET reseller/commissions": lambda his: [{}, {"month": f"{his.settlement.month:%Y-%m}"}],
    "GET reseller/commission": lambda his: [{}],
    "GET reseller/settlements": lambda his: [{}, {"state": "open"}],
    "GET reseller/stock": lambda his: [
        {},
        *({"q": text} for text in [*his.codes, *his.orders, "walk-in"]),
        {"reseller_id": his.reseller.pk},
    ],
    "GET reseller/sales": lambda his: [{}, *({"q": text} for text in [*his.codes, "walk-in"])],
    "GET reseller/prices": lambda his: [{}],
}
"""Operations that list: nothing that is another's is among it, whatever is asked for."""
CHANGES: dict[str, Sent] = {
    "POST reseller/buy": lambda his: [
        {"plan": "nosuch", "quantity": 1, "user_id": his.reseller.user_id, "reseller_id": his.reseller.pk}
    ],
}
"""Operations that name nothing of anybody's: they are about oneself, whatever is sent along."""


def test_every_operation_of_resellers_is_tried() -> None:
    theirs = {name for name, rule in OPERATIONS.items() if " reseller/" in name and rule.who in RESELLERS_OWN}
    assert theirs == NAMED.keys() | LISTED.keys() | CHANGES.keys()


def ask(trade: Trade, operation: str, sent: dict[str, Any]) -> tuple[int, Any]:
    method, path = operation.split()
    rest = {name: value for name, value in sent.items() if f"{{{name}}}" not in path}
    answer: tuple[int, Any] = getattr(Caller(trade.reseller.user), method.lower())(path.format(**sent), **rest)
    return answer


@pytest.mark.parametrize("operation", NAMED)
def test_what_is_anothers_is_not_there(ritas: Trade, ruths: Trade, operation: str) -> None:
    before = everything()
    for sent in NAMED[operation](ritas):
        status, body = ask(ruths, operation, sent)
        assert (status, body["success"]) == (404, False), sent
        typed = {str(value) for value in sent.values()} | set(sent.get("codes", []))
        assert not {mark for mark in shows(str(body), ritas, ruths) if not any(mark in text for text in typed)}
    assert everything() == before


@pytest.mark.parametrize("operation", NAMED)
def test_the_same_is_there_for_its_owner(ritas: Trade, ruths: Trade, operation: str) -> None:
    # Or the test above would be content with operations that answer 404 to everybody.
    assert ask(ritas, operation, NAMED[operation](ritas)[0])[0] == 200


@pytest.mark.parametrize("operation", LISTED)
def test_no_list_holds_what_is_anothers(ritas: Trade, ruths: Trade, operation: str) -> None:
    before = everything()
    found = ""
    for sent in LISTED[operation](ritas):
        status, body = ask(ruths, operation, sent)
        assert status == 200, body
        found += str(body)
    assert shows(found, ritas, ruths) == set()
    assert everything() == before
    if operation not in ("GET reseller/me", "GET reseller/prices"):
        assert ask(ruths, operation, {})[1]["items" if operation[-10:] != "commission" else "months"]


def test_tickets_that_reached_another_are_not_there(ritas: Trade, ruths: Trade) -> None:
    theirs, own = (Ticket.objects.get(first_line=trade.reseller.user) for trade in (ritas, ruths))
    before = [list(rows.order_by("pk").values()) for rows in (Ticket.objects, TicketMessage.objects)]
    program, browser = Caller(ruths.reseller.user), browser_of(ruths.reseller.user)
    [found] = program.get("ticket/list", role="seller")[1]["items"]
    assert found["number"] == own.number
    for name, sent in (("show", {}), ("reply", {"text": "x"}), ("close", {}), ("pass_on", {})):
        ask_for = program.get if name == "show" else program.post
        assert ask_for(f"ticket/{name}", number=theirs.number, **sent)[0] == 404, name
    for name in ("ticket", "ticket_live", "ticket_close", "ticket_pass_on"):
        assert browser.get(reverse(name, args=[theirs.number])).status_code == 404, name
        assert browser.post(reverse(name, args=[theirs.number]), {"text": "x"}).status_code in (404, 405), name
    assert browser.get(reverse("ticket", args=[own.number])).status_code == 200
    assert [list(rows.order_by("pk").values()) for rows in (Ticket.objects, TicketMessage.objects)] == before


def test_a_serial_among_ones_own_is_refused_with_all_of_them(ritas: Trade, ruths: Trade) -> None:
    before = everything()
    mixed = [ruths.codes[0], ritas.codes[0]]
    assert ask(ruths, "POST reseller/recall", {"codes": mixed})[0] == 404
    sales = [{"code": code, "price": "1"} for code in mixed]
    assert ask(ruths, "POST reseller/sales", {"sales": sales})[0] == 404
    assert everything() == before


def test_what_is_done_about_oneself_touches_nobody_else(ritas: Trade, ruths: Trade) -> None:
    before = everything()
    for operation, sent_of in CHANGES.items():
        for sent in sent_of(ritas):
            assert ask(ruths, operation, sent)[0] == 409
    assert everything() == before


def test_the_work_of_staff_is_not_for_resellers(ritas: Trade, ruths: Trade) -> None:
    work = [name for name, rule in OPERATIONS.items() if " reseller/" in name and rule.who == For.STAFF]
    assert len(work) >= 7
    before = everything()
    sent = {
        "reseller_id": ruths.reseller.pk,
        "settlement_id": ruths.settlement.pk,
        "suspicion_id": ruths.suspicion.pk,
        "user_id": ritas.customer.pk,
        "reseller_code": ruths.reseller.code,
        "decision": "approve",
        "reason": "because I say so",
    }
    for operation in work:
        status, body = ask(ruths, operation, sent)
        assert (status, body["error"]["code"]) == (403, "missing_scope"), operation
    assert everything() == before


# --- the pages ---------------------------------------------------------------------------------------


def pages() -> dict[str, list[str]]:
    """Every page of resellers: its name, and what its address wants."""
    resolver = get_resolver()
    found = {name for _path, name in routes(resolver.url_patterns) if name.startswith("reseller_")}
    return {name: list(resolver.reverse_dict.getlist(name)[0][0][0][1]) for name in sorted(found)}


def ids_of(trade: Trade) -> dict[str, int | str]:
    """What addresses of pages may name, by the name of the argument."""
    return {
        "settlement_id": trade.settlement.pk,
        "serial_id": trade.serials[0].pk,
        "lease_id": trade.lease.pk,
        "number": trade.orders[0],
        "code": trade.codes[0],
    }


def browser_of(user: User) -> Client:
    browser = Client(headers={"Accept-Language": "en"})
    browser.force_login(user)
    return browser


def test_no_page_shows_or_touches_what_is_anothers(ritas: Trade, ruths: Trade) -> None:
    browser = browser_of(ruths.reseller.user)
    before = everything()
    for name, wants in pages().items():
        address = reverse(name, kwargs={argument: ids_of(ritas)[argument] for argument in wants})
        got = browser.get(address)
        text = got.getvalue().decode(errors="replace") if got.status_code == 200 else ""
        if wants:
            assert got.status_code == 404, name
            assert browser.post(address, {"confirmed": "1"}).status_code in (404, 405), name
        assert shows(text, ritas, ruths) == set(), name
    assert everything() == before


def test_no_page_takes_anothers_serials_or_settings(ritas: Trade, ruths: Trade) -> None:
    browser = browser_of(ruths.reseller.user)
    ids = [serial.pk for serial in ritas.serials]
    sent = {
        "serials": ids,
        "serial": ids,
        "serial_ids": ids,
        "code": ritas.codes,
        "codes": "\n".join(ritas.codes),
        "text": "\n".join(f"{code},1" for code in ritas.codes),
        "price": "1",
        "currency": "CNY",
        "confirm": "1",
        "confirmed": "1",
        "step": "order",
        "user": ritas.reseller.user_id,
        "reseller": ritas.reseller.pk,
    }
    theirs = _rows_of(ritas)
    for name, wants in pages().items():
        if not wants:
            answer = browser.post(reverse(name), sent)
            assert answer.status_code in (200, 302, 400, 404, 405, 409, 422), name
    assert _rows_of(ritas) == theirs


def _rows_of(trade: Trade) -> list[Any]:
    """The reseller themselves, their stock and its sales, settlements, customers and money, as they are."""
    seller, user = trade.reseller.pk, trade.reseller.user_id
    found = (
        Reseller.objects.filter(pk=seller),
        Settlement.objects.filter(reseller=seller),
        CommissionLine.objects.filter(reseller=seller),
        Attribution.objects.filter(reseller=seller),
        LeaseContact.objects.filter(reseller=seller),
        Order.objects.filter(user=user),
        SoldSerial.objects.filter(line__order__user=user),
        SerialNumber.objects.filter(pk__in=[serial.pk for serial in trade.serials]),
        Resale.objects.filter(sold__line__order__user=user),
        Posting.objects.filter(reseller=user),
        User.objects.filter(pk=user),
    )
    return [list(rows.order_by("pk").values()) for rows in found]
