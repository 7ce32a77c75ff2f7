"""What staff decide about resellers: asked first, by services only, for those who may; bank details for who pays."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from accounts.models import AuditEntry, User
from derp_portal.lib.clock import now
from resellers import services
from resellers.models import (
    Attribution,
    CommissionLine,
    LeaseContact,
    Level,
    LevelPeriod,
    Rate,
    Resale,
    Reseller,
    Settlement,
    Suspicion,
)
from serials.models import Plan
from tests.billing.desk import offered, told
from tests.billing.test_reports import text_of
from tests.billing.till import priced_plan
from tests.conftest import make_user
from tests.resellers.desk import ACCOUNT, Trade, everything, last_event, page, put_in_trade, staff
from tests.resellers.trade import bring, customer_of, make_level, make_reseller, sale
from tests.serials.shop import START, make_server

NOT_MONEY = ("reseller", "attribution", "commissionline", "suspicion", "leasecontact", "resale", "level", "signup")
LISTS = (*NOT_MONEY, "settlement", "linkday")


@pytest.fixture
def roots(client: Client, root: User) -> Client:
    """root's browser."""
    client.force_login(root)
    return client


@pytest.fixture
def plan(db: None) -> Plan:
    """A plan of thirty days for ¥100."""
    make_server()
    return priced_plan(30, 10_000)


@pytest.fixture
def ritas(rita: User, plan: Plan) -> Trade:
    """All that rita has."""
    return put_in_trade(rita, plan)


@pytest.fixture
def applicant(alice: User) -> Reseller:
    """alice wants to be a reseller."""
    make_level()
    Level.objects.filter(code="standard").update(is_default=True)
    return services.apply(user=alice, application="In my shop in Harbin.", code="harbin", accepts_terms=True)


def actions_of(ritas: Trade) -> dict[str, dict[str, Any]]:
    """Every action, with an answer that would be good."""
    attribution = Attribution.objects.get(user=ritas.customer)
    contact = LeaseContact.objects.get()
    reseller, settlement, suspicion = ritas.reseller, ritas.settlement, ritas.suspicion
    level = Level.objects.exclude(pk=reseller.level_id).first() or make_level("gold", 2500)
    return {
        page("reseller_approve", reseller.pk): {"level": level.pk},
        page("reseller_reject", reseller.pk): {"reason": "x"},
        page("reseller_suspend", reseller.pk): {"reason": "x"},
        page("reseller_change_level", reseller.pk): {"level": level.pk},
        page("attribution_assign", attribution.pk): {"reseller": "", "reason": "x"},
        reverse("admin:accounts_user_assign_reseller", args=[ritas.customer.pk]): {"reseller": "", "reason": "x"},
        page("suspicion_clear", suspicion.pk): {"reason": "x"},
        page("suspicion_confirm", suspicion.pk): {"reason": "x"},
        page("settlement_approve", settlement.pk): {},
        page("settlement_paid", settlement.pk): {"reference": "x"},
        page("settlement_reject", settlement.pk): {"reason": "x"},
        page("settlement_run_months"): {},
        page("leasecontact_reassign", contact.pk): {"reseller": "", "reason": "x"},
    }


# --- who may -----------------------------------------------------------------------------------------


def test_who_may_only_look_can_do_nothing(ritas: Trade) -> None:
    actions = actions_of(ritas)
    browser = staff(*(f"view_{name}" for name in LISTS))
    before = everything()
    answers = {address: browser.post(address, form).status_code for address, form in actions.items()}
    assert answers == dict.fromkeys(actions, 403)
    for name, row in {"reseller": ritas.reseller, "settlement": ritas.settlement}.items():
        answer = browser.get(page(f"{name}_change", row.pk))
        assert answer.status_code == 200
        assert offered(browser, page(f"{name}_change", row.pk)) <= {"statement"}
    assert everything() == before


def test_each_action_takes_the_permission_of_its_own_page(ritas: Trade) -> None:
    actions = actions_of(ritas)
    browser = staff(*(f"view_{name}" for name in LISTS), "change_reseller")
    allowed = {address for address in actions if "/reseller/" in address}
    assert {address for address in actions if browser.get(address).status_code == 200} == allowed
    browser = staff("add_settlement")
    allowed.add(page("settlement_run_months"))
    assert {address for address in actions if browser.get(address).status_code == 200} == allowed


def test_asking_changes_nothing(roots: Client, ritas: Trade) -> None:
    actions = actions_of(ritas)
    before, written = everything(), AuditEntry.objects.count()
    assert {address: roots.get(address).status_code for address in actions} == dict.fromkeys(actions, 200)
    for name in LISTS:
        roots.get(page(f"{name}_changelist"))
    assert everything() == before
    assert AuditEntry.objects.count() == written


def test_no_row_can_be_added_changed_or_deleted_past_the_services(roots: Client, ritas: Trade) -> None:
    rows: dict[str, Any] = {
        "reseller": ritas.reseller,
        "settlement": ritas.settlement,
        "suspicion": ritas.suspicion,
        "commissionline": CommissionLine.objects.first(),
        "attribution": Attribution.objects.first(),
        "resale": Resale.objects.first(),
        "leasecontact": LeaseContact.objects.first(),
    }
    before = everything()
    for name, row in rows.items():
        assert roots.post(page(f"{name}_change", row.pk), {"amount": "1", "state": "paid"}).status_code == 403
        assert roots.post(page(f"{name}_delete", row.pk), {"post": "yes"}).status_code == 403
        assert roots.get(page(f"{name}_add")).status_code == 403
    assert everything() == before


def test_where_resellers_are_paid_is_read_by_those_who_pay_and_in_no_list(roots: Client, ritas: Trade) -> None:
    pages = [page("reseller_change", ritas.reseller.pk), page("settlement_change", ritas.settlement.pk)]
    lists = [page(f"{name}_changelist") for name in LISTS]
    for address in pages:
        assert ACCOUNT in told(roots.get(address))
    for address in [*lists, f"{lists[0]}?q=Somewhere", reverse("admin:index")]:
        assert ACCOUNT not in told(roots.get(address))
    only_looks = staff(*(f"view_{name}" for name in LISTS), *(f"change_{name}" for name in NOT_MONEY))
    for address in pages:
        shown = told(only_looks.get(address))
        assert "bank account: ••••" in shown
        assert "1234" not in shown
    pays = staff("change_settlement")
    assert all(ACCOUNT in told(pays.get(address)) for address in pages)


def test_secrets_of_stock_are_on_no_page_of_ours(roots: Client, ritas: Trade) -> None:
    addresses = [page(f"{name}_changelist") for name in LISTS]
    addresses += [page("resale_change", Resale.objects.get().pk), page("reseller_change", ritas.reseller.pk)]
    for address in addresses:
        shown = told(roots.get(address))
        assert not any(code in shown.replace("-", "") for code in ritas.codes)


# --- resellers ---------------------------------------------------------------------------------------


def test_an_application_is_approved_at_a_level(roots: Client, applicant: Reseller, root: User) -> None:
    gold = make_level("gold", 2500)
    question = roots.get(page("reseller_approve", applicant.pk))
    assert "In my shop in Harbin." in told(question)
    assert question.context["question"].form["level"].value() == applicant.level_id
    answer = roots.post(page("reseller_approve", applicant.pk), {"level": gold.pk}, follow=True)
    assert "alice is a reseller now." in told(answer)
    applicant.refresh_from_db()
    assert (applicant.state, applicant.level, applicant.decided_by) == ("active", gold, root)
    assert User.objects.get(pk=applicant.user_id).role == User.Role.RESELLER
    assert LevelPeriod.objects.get().level == gold
    assert offered(roots, page("reseller_change", applicant.pk)) == {"suspend", "level"}


def test_an_application_is_rejected_with_a_reason(roots: Client, applicant: Reseller) -> None:
    assert offered(roots, page("reseller_change", applicant.pk)) == {"approve", "reject"}
    before = everything()
    answer = roots.post(page("reseller_reject", applicant.pk), {"reason": " "})
    assert list(answer.context["question"].form.errors) == ["reason"]
    assert everything() == before
    roots.post(page("reseller_reject", applicant.pk), {"reason": "no shop at that address"})
    applicant.refresh_from_db()
    assert (applicant.state, applicant.decision_reason) == ("rejected", "no shop at that address")
    assert offered(roots, page("reseller_change", applicant.pk)) == {"approve"}


def test_a_reseller_is_suspended_and_comes_back_at_the_same_level(roots: Client, ritas: Trade) -> None:
    roots.post(page("reseller_suspend", ritas.reseller.pk), {"reason": "spam"})
    ritas.reseller.refresh_from_db()
    assert ritas.reseller.state == "suspended"
    assert User.objects.get(username="rita").role == User.Role.USER
    roots.post(page("reseller_approve", ritas.reseller.pk), {"level": ritas.reseller.level_id})
    ritas.reseller.refresh_from_db()
    assert ritas.reseller.is_active
    assert LevelPeriod.objects.count() == 1


@pytest.mark.parametrize(("action", "state"), [("reject", "active"), ("suspend", "rejected"), ("reject", "suspended")])
def test_what_was_decided_before_is_refused_in_words(roots: Client, ritas: Trade, action: str, state: str) -> None:
    Reseller.objects.update(state=state)
    before = everything()
    answer = roots.post(page(f"reseller_{action}", ritas.reseller.pk), {"reason": "x"})
    assert "This was decided before; nothing was changed." in told(answer)
    assert everything() == before


def test_the_level_is_changed_from_now_on(roots: Client, ritas: Trade) -> None:
    gold = make_level("gold", 2500)
    answer = roots.post(page("reseller_change_level", ritas.reseller.pk), {"level": gold.pk}, follow=True)
    assert "rita is at level gold." in told(answer)
    assert list(LevelPeriod.objects.order_by("since").values_list("level__code", flat=True)) == ["standard", "gold"]
    assert roots.post(page("reseller_change_level", ritas.reseller.pk), {"level": "99"}).context["question"].form.errors


# --- levels and rates --------------------------------------------------------------------------------


def level_form(**more: str) -> dict[str, str]:
    row = {"name": "Gold", "code": "gold", "hold_days": "14", "cookie_days": "30", "recall_days": "14"}
    rates = {
        "rates-TOTAL_FORMS": "1",
        "rates-INITIAL_FORMS": "0",
        "rates-0-basis_points": "12.55",
        "rates-0-valid_from_0": "",
        "rates-0-valid_from_1": "",
    }
    return {**row, **rates, **least_form(), **more}


def least_form(**amounts: str) -> dict[str, str]:
    """Smallest payouts that are new, by currency."""
    form = {"payout_minimums-TOTAL_FORMS": str(len(amounts)), "payout_minimums-INITIAL_FORMS": "0"}
    for number, (currency, amount) in enumerate(amounts.items()):
        form |= {
            f"payout_minimums-{number}-currency": currency,
            f"payout_minimums-{number}-amount": amount,
        }
    return form


def test_rates_are_typed_in_percent_and_amounts_as_decimals(roots: Client, db: None) -> None:
    answer = roots.post(page("level_add"), level_form(**least_form(CNY="50.5", JPY="1000")), follow=True)
    level = Level.objects.get(code="gold")
    least = dict(level.payout_minimums.values_list("currency", "amount"))
    assert (least, level.rates.get().basis_points) == ({"CNY": 5050, "JPY": 1000}, 1255), told(answer)
    shown = told(roots.get(page("level_change", level.pk)))
    assert 'value="12.55"' in shown
    assert 'value="50.50"' in shown
    listed = told(roots.get(page("level_changelist")))
    assert "12.55 %" in listed
    assert "¥50.50 · ¥1,000" in listed.replace("CN¥", "¥").replace("JP¥", "¥")
    entry = AuditEntry.objects.get(event="rate.added")
    assert (entry.target_label, entry.actor_label, entry.data["basis_points"]) == ("Gold", "root", 1255)


def test_a_smallest_payout_that_somebody_else_has_added_meanwhile_is_refused_in_words(roots: Client, db: None) -> None:
    level = make_level("gold", None, minimum_payout=100)
    form = level_form(**{"rates-TOTAL_FORMS": "0"}, **least_form(CNY="60"))
    answer = roots.post(page("level_change", level.pk), form)
    assert "There is a smallest payout of this currency already." in told(answer)
    assert level.payout_minimums.get().amount == 100


@pytest.mark.parametrize("rate", ["12.555", "100.01", "-1", "a lot"])
def test_a_rate_that_is_none_is_refused(roots: Client, db: None, rate: str) -> None:
    answer = roots.post(page("level_add"), level_form(**{"rates-0-basis_points": rate, "rates-0-plan": ""}))
    assert answer.status_code == 200
    assert not Level.objects.filter(code="gold").exists()


def test_a_rate_that_ends_before_it_begins_is_refused(roots: Client, db: None) -> None:
    dates = {"valid_from": "2027-02-01", "valid_until": "2027-01-01"}
    fields = {f"rates-0-{name}_0": day for name, day in dates.items()}
    times = {f"rates-0-{name}_1": "00:00" for name in dates}
    answer = roots.post(page("level_add"), level_form(**fields, **times))
    assert "The end must lie after the beginning." in told(answer)


def rate_form(rate: Rate, **more: str) -> dict[str, str]:
    """The page of the rate's level as it was, but for what is given: by the rate's fields."""
    form = level_form(
        **{
            "rates-INITIAL_FORMS": "1",
            "rates-0-id": str(rate.pk),
            "rates-0-level": str(rate.level_id),
            "rates-0-basis_points": f"{rate.basis_points / 100:g}",
            **moment_of("valid_from", rate.valid_from),
            **moment_of("valid_until", rate.valid_until),
        }
    )
    return form | {f"rates-0-{name}": value for name, value in more.items()}


def moment_of(name: str, moment: datetime | None, row: int = 0) -> dict[str, str]:
    """A moment in both fields of a rate's; root's zone is UTC."""
    day, time = f"{moment:%Y-%m-%d %H:%M:%S}".split() if moment else ("", "")
    return {f"rates-{row}-{name}_0": day, f"rates-{row}-{name}_1": time}


def test_a_changed_and_a_deleted_rate_are_written_down(roots: Client, db: None) -> None:
    level = make_level("gold", 1500)
    rate = level.rates.get()
    Rate.objects.update(valid_from=now() + timedelta(days=1))
    rate.refresh_from_db()
    address = page("level_change", level.pk)
    roots.post(address, rate_form(rate, basis_points="20"))
    rate.refresh_from_db()
    assert rate.basis_points == 2000
    assert last_event() == ("rate.changed", "root")
    roots.post(address, rate_form(rate, DELETE="on"))
    assert not Rate.objects.filter(pk=rate.pk).exists()
    assert last_event() == ("rate.deleted", "root")


def test_a_rate_that_has_begun_stays_but_for_its_end(roots: Client, plan: Plan) -> None:
    level = make_level("gold", 1500)
    rate, address = level.rates.get(), page("level_change", level.pk)
    stays = "This rate has counted for sales: it stays as it is."
    yesterday, tomorrow = now() - timedelta(days=1), (now() + timedelta(days=1)).replace(microsecond=0)
    for began in (None, yesterday):
        Rate.objects.update(valid_from=began)
        rate.refresh_from_db()
        before = everything()
        for more, words in (
            ({"basis_points": "20"}, stays),
            ({"plan": str(plan.pk)}, stays),
            ({"valid_from_0": "2020-01-01", "valid_from_1": "00:00"}, stays),
            ({"valid_until_0": "2020-01-01", "valid_until_1": "00:00"}, "the end must not be past"),
            ({"DELETE": "on"}, "This rate has counted for sales and cannot be deleted."),
        ):
            assert words in told(roots.post(address, rate_form(rate, **more))), more
        assert everything() == before
    form = rate_form(rate) | moment_of("valid_until", tomorrow)
    roots.post(address, form)
    rate.refresh_from_db()
    assert (rate.valid_from, rate.valid_until) == (yesterday, tomorrow), "not a moment earlier than it had begun"
    assert last_event() == ("rate.changed", "root")
    Rate.objects.update(valid_until=now())
    rate.refresh_from_db()
    before = everything()
    assert "This rate is over" in told(roots.post(address, rate_form(rate, valid_until_0="", valid_until_1="")))
    assert everything() == before


@pytest.mark.parametrize("began", [None, START - timedelta(days=9)])
def test_a_rate_that_is_added_begins_now_at_the_earliest(client: Client, root: User, began: datetime | None) -> None:
    level = make_level("gold", None)
    with time_machine.travel(START, tick=False):
        client.force_login(root)
        client.post(page("level_change", level.pk), level_form(**moment_of("valid_from", began)))
        assert level.rates.get().valid_from == START
        level.rates.all().delete()
        client.post(page("level_change", level.pk), level_form(**moment_of("valid_from", START + timedelta(days=3))))
        assert level.rates.get().valid_from == START + timedelta(days=3)


def test_what_was_sold_under_a_rate_earns_it_whenever_it_is_decided(
    roots: Client, rita: User, alice: User, root: User
) -> None:
    reseller = make_reseller(rita)
    level = reseller.level
    alice.email = "rita+second@example.com"
    alice.save(update_fields=["email"])
    bring(reseller, alice)
    sale(alice, priced_plan(30, 10_000))
    services.accrue()
    old = level.rates.get()
    address, two = page("level_change", level.pk), {"rates-TOTAL_FORMS": "2", "rates-1-basis_points": "20"}
    roots.post(address, rate_form(old, basis_points="20"))
    roots.post(address, rate_form(old, DELETE="on"))
    roots.post(address, rate_form(old) | two | moment_of("valid_from", now() - timedelta(days=9), row=1))
    assert list(level.rates.order_by("id").values_list("basis_points", flat=True)) == [1500, 2000]
    services.clear(suspicion_id=Suspicion.objects.get().pk, reason="a namesake", actor=root)
    assert CommissionLine.objects.get().amount == 1500
    sale(customer_of(reseller), priced_plan(30, 10_000))
    services.accrue()
    assert CommissionLine.objects.latest("id").amount == 2000


def test_one_level_is_for_new_resellers_and_codes_stay(roots: Client, db: None) -> None:
    Level.objects.update_or_create(code="standard", defaults={"name": "Standard", "is_default": True})
    answer = roots.post(page("level_add"), level_form(is_default="on"))
    assert "“Standard” is the level for new resellers. Take that from it first." in told(answer)
    level = make_level("silver")
    roots.post(page("level_change", level.pk), level_form(code="other", **{"rates-TOTAL_FORMS": "0"}))
    level.refresh_from_db()
    assert (level.code, level.name) == ("silver", "Gold")


def test_a_level_that_somebody_is_at_stays(roots: Client, ritas: Trade) -> None:
    level = ritas.reseller.level
    roots.post(page("level_delete", level.pk), {"post": "yes"})
    assert Level.objects.filter(pk=level.pk).exists()
    assert level.rates.exists()


# --- customers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", ["link-bob", "LINK-BOB", "bob"])
def test_a_customer_is_assigned_to_another_reseller(roots: Client, ritas: Trade, bob: User, named: str) -> None:
    other = make_reseller(bob, ritas.reseller.level)
    old = Attribution.objects.get(user=ritas.customer)
    form = {"reseller": named, "reason": "she showed the mail"}
    answer = roots.post(page("attribution_assign", old.pk), form, follow=True)
    assert "customer-of-rita is a customer of bob now." in told(answer)
    old.refresh_from_db()
    new = Attribution.objects.get(user=ritas.customer, until=None)
    assert (new.reseller, new.reason, str(new.actor)) == (other, "she showed the mail", "root")
    assert old.until == new.since
    assert offered(roots, page("attribution_change", old.pk)) == set()
    assert offered(roots, page("attribution_change", new.pk)) == {"assign"}


def test_a_customer_is_assigned_to_nobody_and_from_their_own_page(roots: Client, ritas: Trade, bob: User) -> None:
    address = reverse("admin:accounts_user_assign_reseller", args=[ritas.customer.pk])
    assert "Now of rita." in told(roots.get(address))
    roots.post(address, {"reseller": "", "reason": "asked to"})
    assert not Attribution.objects.filter(user=ritas.customer, until=None).exists()
    assert "Nobody&#x27;s until now." in told(roots.get(address))
    roots.post(reverse("admin:accounts_user_assign_reseller", args=[bob.pk]), {"reseller": "rita", "reason": "asked"})
    assert Attribution.objects.get(user=bob).reseller == ritas.reseller


@pytest.mark.parametrize(
    ("form", "beside"),
    [
        ({"reseller": "nobody-knows", "reason": "x"}, "reseller"),
        ({"reseller": "suspended", "reason": "x"}, "reseller"),
        ({"reseller": "rita", "reason": ""}, "reason"),
    ],
)
def test_a_customer_is_not_assigned_without_reason_or_to_who_is_none(
    roots: Client, ritas: Trade, bob: User, form: dict[str, str], beside: str
) -> None:
    make_reseller(bob, ritas.reseller.level, code="suspended", state=Reseller.State.SUSPENDED)
    before = everything()
    address = page("attribution_assign", Attribution.objects.get(user=ritas.customer).pk)
    answer = roots.post(address, form)
    assert list(answer.context["question"].form.errors) == [beside]
    assert everything() == before


def test_nobody_becomes_their_own_customer(roots: Client, ritas: Trade) -> None:
    address = reverse("admin:accounts_user_assign_reseller", args=[ritas.reseller.user_id])
    assert "Nobody is their own customer." in told(roots.post(address, {"reseller": "rita", "reason": "x"}))


def test_a_code_that_is_anothers_name_means_the_code(roots: Client, ritas: Trade, bob: User) -> None:
    make_reseller(bob, ritas.reseller.level, code="rita")
    address = page("attribution_assign", Attribution.objects.get(user=ritas.customer).pk)
    roots.post(address, {"reseller": "rita", "reason": "x"})
    assert Attribution.objects.get(user=ritas.customer, until=None).reseller.user == bob


# --- suspicions --------------------------------------------------------------------------------------


def test_a_suspicion_says_in_words_what_speaks_for_it(roots: Client, ritas: Trade) -> None:
    shown = told(roots.get(page("suspicion_change", ritas.suspicion.pk)))
    assert "came from the same IP address" in shown
    assert reverse("admin:billing_order_change", args=[ritas.suspicion.order_id]) in shown


@pytest.mark.parametrize(("action", "state", "amount"), [("clear", "cleared", 1500), ("confirm", "confirmed", 0)])
def test_a_suspicion_is_decided_with_a_reason(
    roots: Client, ritas: Trade, action: str, state: str, amount: int
) -> None:
    address = page(f"suspicion_{action}", ritas.suspicion.pk)
    assert list(roots.post(address, {"reason": ""}).context["question"].form.errors) == ["reason"]
    roots.post(address, {"reason": "looked into it"})
    ritas.suspicion.refresh_from_db()
    assert (ritas.suspicion.state, ritas.suspicion.reason, str(ritas.suspicion.actor)) == (
        state,
        "looked into it",
        "root",
    )
    assert CommissionLine.objects.get(order=ritas.suspicion.order).amount == amount
    assert offered(roots, page("suspicion_change", ritas.suspicion.pk)) == set()
    before = everything()
    other = "confirm" if action == "clear" else "clear"
    answer = roots.post(page(f"suspicion_{other}", ritas.suspicion.pk), {"reason": "x"})
    assert "This was decided before" in told(answer)
    assert everything() == before


# --- settlements -------------------------------------------------------------------------------------


def test_a_settlement_is_approved_and_paid(roots: Client, ritas: Trade) -> None:
    one = ritas.settlement
    assert offered(roots, page("settlement_change", one.pk)) == {"approve", "reject", "statement"}
    assert "CN¥10.00 for rita" in told(roots.get(page("settlement_approve", one.pk)))
    roots.post(page("settlement_approve", one.pk))
    assert offered(roots, page("settlement_change", one.pk)) == {"paid", "reject", "statement"}
    assert ACCOUNT in told(roots.get(page("settlement_paid", one.pk)))
    assert list(roots.post(page("settlement_paid", one.pk), {"reference": ""}).context["question"].form.errors) == [
        "reference"
    ]
    roots.post(page("settlement_paid", one.pk), {"reference": "bank 7"})
    one.refresh_from_db()
    assert (one.state, one.payout_reference, str(one.paid_by)) == ("paid", "bank 7", "root")
    assert offered(roots, page("settlement_change", one.pk)) == {"statement"}
    before = everything()
    assert "This was decided before" in told(roots.post(page("settlement_reject", one.pk), {"reason": "x"}))
    assert everything() == before


def test_a_second_payment_of_a_settlement_is_not_taken_for_the_first(roots: Client, ritas: Trade) -> None:
    one = ritas.settlement
    roots.post(page("settlement_approve", one.pk))
    roots.post(page("settlement_paid", one.pk), {"reference": "bank 7"})
    before = everything()
    assert "with the reference “bank 7”" in told(roots.post(page("settlement_paid", one.pk), {"reference": "bank 8"}))
    assert everything() == before
    assert services.pay_settlement(settlement_id=one.pk, reference=" bank 7 ", actor=ritas.reseller.user).pk == one.pk


def test_the_statement_says_the_end_of_an_account_to_those_who_pay(roots: Client, ritas: Trade) -> None:
    paper = page("settlement_statement", ritas.settlement.pk)
    assert "5678" in text_of(roots.get(paper).content)
    shown = text_of(staff("view_settlement").get(paper).content)
    assert "bank account" in shown
    assert "5678" not in shown


def test_a_settlement_is_not_paid_before_it_is_approved(roots: Client, ritas: Trade) -> None:
    before = everything()
    answer = roots.post(page("settlement_paid", ritas.settlement.pk), {"reference": "bank 7"})
    assert "Approve it first." in told(answer)
    assert everything() == before


def test_a_settlement_is_rejected_with_a_reason(roots: Client, ritas: Trade) -> None:
    roots.post(page("settlement_reject", ritas.settlement.pk), {"reason": "the account is closed"})
    ritas.settlement.refresh_from_db()
    assert (ritas.settlement.state, ritas.settlement.reason) == ("rejected", "the account is closed")


def test_many_settlements_are_approved_at_once_after_asking(roots: Client, ritas: Trade) -> None:
    fields = {"reseller": ritas.reseller, "currency": "CNY", "amount": 500, "payable": 500}
    second = Settlement.objects.create(month=date(2026, 1, 1), state="open", **fields)
    done = Settlement.objects.create(month=date(2026, 2, 1), state="rejected", rejected_at=now(), **fields)
    chosen = [ritas.settlement.pk, second.pk, done.pk]
    form: dict[str, Any] = {"action": "approve_chosen", "_selected_action": chosen}
    question = roots.post(page("settlement_changelist"), form)
    assert "2 settlements are to be approved: CN¥15.00." in told(question)
    assert not Settlement.objects.filter(state="approved").exists()
    answer = roots.post(page("settlement_changelist"), {**form, "confirmed": "1"}, follow=True)
    assert "2 settlements are approved." in told(answer)
    assert set(Settlement.objects.values_list("state", flat=True)) == {"approved", "rejected"}


def test_the_page_of_a_settlement_shows_what_it_is_made_of(roots: Client, ritas: Trade) -> None:
    answer = roots.get(page("settlement_change", ritas.settlement.pk))
    line = CommissionLine.objects.get(amount=1000)
    assert line.order.number in told(answer)
    listed = roots.get(answer.context["settled_url"])
    assert [row.pk for row in listed.context["cl"].result_list] == [line.pk]
    pdf = roots.get(page("settlement_statement", ritas.settlement.pk))
    assert pdf["Content-Type"] == "application/pdf"
    assert pdf.content.startswith(b"%PDF")


def test_lists_are_narrowed_by_month(roots: Client, ritas: Trade) -> None:
    month = f"{ritas.settlement.month:%Y-%m}"
    for name in ("settlement", "commissionline"):
        found = {
            asked: len(roots.get(page(f"{name}_changelist"), {"month": asked}).context["cl"].result_list)
            for asked in (month, "2001-01", "nonsense")
        }
        assert found[month] == 1
        assert found["2001-01"] == 0
        assert found["nonsense"] >= 1


def test_months_that_are_over_are_run_by_a_button(roots: Client, rita: User) -> None:
    reseller = make_reseller(rita, make_level())
    with time_machine.travel(START, tick=False) as clock:
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        clock.shift(timedelta(days=31))
        roots.force_login(User.objects.get(username="root"))
        answer = roots.post(page("settlement_run_months"), follow=True)
        assert "1 settlement was made." in told(answer)
        assert last_event() == ("settlements.run", "root")
        assert "0 settlements were made." in told(roots.post(page("settlement_run_months"), follow=True))
    assert Settlement.objects.get().payable == 1500


# --- wholesale ---------------------------------------------------------------------------------------


def test_a_lease_is_given_to_another_seller_or_to_the_portal(roots: Client, ritas: Trade, bob: User) -> None:
    other = make_reseller(bob, ritas.reseller.level)
    contact = LeaseContact.objects.get()
    address = page("leasecontact_reassign", contact.pk)
    assert "Now it is rita." in told(roots.get(address))
    assert list(roots.post(address, {"reseller": "bob"}).context["question"].form.errors) == ["reason"]
    roots.post(address, {"reseller": "bob", "reason": "rita has moved"})
    contact.refresh_from_db()
    assert (contact.reseller, contact.reason) == (other, "rita has moved")
    answer = roots.post(address, {"reseller": "", "reason": "so has bob"}, follow=True)
    contact.refresh_from_db()
    assert contact.reseller is None
    assert "the portal itself" in told(answer)


def test_a_resale_is_found_by_its_whole_code_only(roots: Client, ritas: Trade) -> None:
    code = Resale.objects.get().sold.serial.code
    found = {
        text: roots.get(page("resale_changelist"), {"q": text}).context["cl"].result_count
        for text in (code, code[:12], "walk-in", "rita", "nobody")
    }
    assert found == {code: 1, code[:12]: 0, "walk-in": 1, "rita": 1, "nobody": 0}


# --- the first page and the commands -------------------------------------------------------------------


def test_the_first_page_leads_to_what_waits(roots: Client, ritas: Trade) -> None:
    services.approve_settlement(settlement_id=ritas.settlement.pk, actor=User.objects.get(username="root"))
    make_level()
    Level.objects.filter(code="standard").update(is_default=True)
    services.apply(user=make_user("dora"), application="Door to door.", accepts_terms=True)
    Settlement.objects.create(
        reseller=ritas.reseller, month=date(2026, 1, 1), currency="CNY", amount=5, payable=5, state="open"
    )
    shown = {kind.title: kind for kind in roots.get(reverse("admin:index")).context["attention"]}
    titles = ["Applications of resellers", "Orders that may be a reseller's own", "Settlements to approve"]
    for title in [*titles, "Settlements to pay"]:
        assert shown[title].count == len(shown[title].items) == 1
        assert roots.get(shown[title].items[0].link).status_code == 200
        assert roots.get(shown[title].link).context["cl"].result_count == 1


def test_staff_for_resellers_see_what_waits_of_resellers_and_nothing_else(ritas: Trade) -> None:
    browser = staff("view_reseller", "view_suspicion", "view_settlement")
    answer = browser.get(reverse("admin:index"))
    assert {kind.title for kind in answer.context["attention"]} == {
        "Orders that may be a reseller's own",
        "Settlements to approve",
    }
    assert "money" not in answer.context
    assert "has_rooms" not in answer.context
    Suspicion.objects.all().delete()
    Settlement.objects.all().delete()
    assert "No reseller waits for a decision or a payment." in told(browser.get(reverse("admin:index")))


def test_a_month_is_run_by_command(rita: User, capsys: pytest.CaptureFixture[str]) -> None:
    reseller = make_reseller(rita, make_level())
    with time_machine.travel(START, tick=False) as clock:
        sale(customer_of(reseller), priced_plan(30, 10_000))
        services.accrue()
        with pytest.raises(CommandError, match="not over yet") as refusal:
            call_command("run_commissions", month=f"{now():%Y-%m}")
        assert refusal.value.returncode == 1
        clock.shift(timedelta(days=31))
        call_command("run_commissions", month="2027-01")
        call_command("run_commissions")
    assert capsys.readouterr().out == "1 settlement was made.\n0 settlements were made.\n"
    assert Settlement.objects.get().payable == 1500
    with pytest.raises(CommandError, match="“May” is not a month like 2026-12") as refusal:
        call_command("run_commissions", month="May")
    assert refusal.value.returncode == 1


def test_the_check_says_what_differs(rita: User, capsys: pytest.CaptureFixture[str]) -> None:
    reseller = make_reseller(rita, make_level())
    call_command("check_commissions")
    assert "agree" in capsys.readouterr().out
    Settlement.objects.create(
        reseller=reseller, month=date(2026, 1, 1), currency="CNY", amount=5, payable=5, state="open"
    )
    with pytest.raises(CommandError, match=r"2026-01: lines 0, settlement 5 CNY") as found:
        call_command("check_commissions")
    assert found.value.returncode == 1
