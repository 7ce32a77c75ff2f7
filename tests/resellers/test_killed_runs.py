"""The monthly run killed with -9 at every step and repeated: its settlements are, field for field, those of a run that
nobody disturbed, and each statement is mailed once.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pytest
import time_machine
from django.db import connection

from accounts.models import User
from billing.finance.books import check_books
from billing.services import refund_order
from resellers import services
from resellers.models import CommissionBook, Reseller, Settlement
from tests.billing.till import begin, call, make_method, order_of, priced_plan
from tests.conftest import make_user
from tests.fleet.doomed import work
from tests.resellers.trade import customer_of, make_level, make_reseller, sale
from tests.serials.shop import mails

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]

# In the past: the workers' clocks are the real one.
MAY, JUNE, JULY = date(2024, 5, 1), date(2024, 6, 1), date(2024, 7, 1)
RESELLERS = ("rita", "sam", "tom", "uma", "vic")
CHUNK = 2

WORKER = """
import os, signal, sys
from datetime import date
from django.db.models import QuerySet
from resellers.services import months
job, month, name, when, nth, chunk = sys.argv[1:]
months.CHUNK, wanted, calls = int(chunk), date.fromisoformat(month), 0
owner = QuerySet if name == "bulk_create" else months
step = getattr(owner, name)
def is_it(first, *rest):
    # The month before is looked at again first, and written nothing for.
    if owner is QuerySet:
        return first.model is months.Settlement and rest[0]
    return name == "notify" or first == wanted
def die(*arguments, **options):
    global calls
    calls += bool(is_it(*arguments) if arguments else is_it(None))
    if calls < int(nth):
        return step(*arguments, **options)
    if when == "after":
        step(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(owner, name, die)
if job == "run":
    months.run_month(month=wanted)
else:
    months.send_statements()
"""


def killed(job: str, month: date, name: str, when: str, nth: int) -> None:
    """A process does the job and dies at the nth time that it comes to this step."""
    connection.close()
    done = work(WORKER, job, month.isoformat(), name, when, nth, CHUNK)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.fixture
def history(root: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[time_machine.Traveller]:
    """Five resellers' May was run: some of it is carried, rejected or paid. June is over, and waits to be run."""
    from resellers.services import months

    monkeypatch.setattr(months, "CHUNK", CHUNK)
    with time_machine.travel(datetime(2024, 5, 10, 12, tzinfo=UTC), tick=False) as clock:
        level, plans = make_level(minimum_payout=2000), [priced_plan(30, 10_000), priced_plan(3, 990)]
        usd = priced_plan(30, 3000, currency="USD")
        resellers = {name: make_reseller(make_user(name), level) for name in RESELLERS}
        customers = {name: customer_of(reseller, f"of-{name}") for name, reseller in resellers.items()}
        given_back = sale(customers["uma"], plans[0], quantity=2)
        for name in ("rita", "sam", "tom"):
            for _number in range(2):
                sale(customers[name], plans[0])
        sale(customers["vic"], plans[1])  # Too little: carried.
        call(begin(order_of(customers["rita"], usd, currency="USD"), make_method("usd", currency="USD")))
        services.accrue()
        clock.move_to(datetime(2024, 6, 2, 12, tzinfo=UTC))
        services.run_months()
        services.send_statements()
        _decide(resellers, root)
        # Of uma's, all was paid out; it comes back in June.
        refund_order(order_id=given_back.pk, reason="asked", actor=root)
        for name in ("rita", "vic"):
            sale(customers[name], plans[0], quantity=2)
        sale(customers["sam"], plans[1])
        services.accrue()
        clock.move_to(datetime(2024, 7, 2, 12, tzinfo=UTC))
        yield clock


def _decide(resellers: dict[str, Reseller], root: User) -> None:
    """Of May, uma is paid, tom and sam are turned down, rita still waits."""
    for settlement in Settlement.objects.filter(state="open").select_related("reseller__user"):
        name = settlement.reseller.user.username
        if name == "uma":
            services.approve_settlement(settlement_id=settlement.pk, actor=root)
            services.pay_settlement(settlement_id=settlement.pk, reference="bank", actor=root)
        elif name in ("tom", "sam"):
            services.reject_settlement(settlement_id=settlement.pk, reason="wrong account", actor=root)


def rows() -> list[dict[str, Any]]:
    """All settlements with everything but their ids and when they were made; what they were carried to by its month."""
    months = dict(Settlement.objects.values_list("pk", "month"))
    found = []
    for row in Settlement.objects.order_by("month", "reseller", "currency").values():
        kept = {name: value for name, value in row.items() if name not in ("id", "created_at", "told_at")}
        found.append({**kept, "carried_to_id": months.get(row["carried_to_id"])})
    return found


def undisturbed(month: date) -> list[dict[str, Any]]:
    """What the run makes of this very data when nobody disturbs it; afterwards it is as if it had not been run."""
    before = dict(Settlement.objects.values_list("pk", "carried_to"))
    book = CommissionBook.objects.values("run_until", "settled_until").get(pk=1)
    assert services.run_month(month=month) > CHUNK
    wanted = rows()
    assert services.run_month(month=month) == 0
    for pk, carried_to in before.items():
        Settlement.objects.filter(pk=pk).update(carried_to=carried_to)
    Settlement.objects.exclude(pk__in=before).delete()
    CommissionBook.objects.update(**book)
    return wanted


STEPS = [
    ("_shut", "after", 1),
    ("_sums", "after", 1),
    ("_settle", "after", 1),
    ("_to_carry", "after", 1),
    ("bulk_create", "before", 1),
    ("bulk_create", "after", 1),
    ("bulk_create", "after", 2),
    ("_carry", "before", 2),
    ("_carry", "after", 2),
    ("_settle", "after", 3),
]


@pytest.mark.parametrize(("name", "when", "nth"), STEPS, ids=[f"{when} {name} {nth}" for name, when, nth in STEPS])
def test_a_run_killed_at_any_step_and_repeated_makes_the_same_settlements(
    history: time_machine.Traveller, name: str, when: str, nth: int
) -> None:
    wanted = undisturbed(JUNE)

    killed("run", JUNE, name, when, nth)

    made = Settlement.objects.filter(month=JUNE).count()
    assert made < len([row for row in wanted if row["month"] == JUNE]) or nth == 3
    assert made % CHUNK == 0 or nth == 3, "half a step was left behind"
    services.run_month(month=JUNE)
    assert rows() == wanted
    assert services.run_months() == 0
    assert services.check_commissions() + check_books() == []


def test_a_month_that_was_killed_is_run_to_its_end_before_the_next(history: time_machine.Traveller) -> None:
    """By command and for a later month: what the killed run has left is not passed over."""
    wanted = undisturbed(JUNE)
    killed("run", JUNE, "_settle", "after", 1)
    history.move_to(datetime(2024, 8, 2, 12, tzinfo=UTC))

    services.run_month(month=JULY)

    assert [row for row in rows() if row["month"] == JUNE] == [row for row in wanted if row["month"] == JUNE]
    assert services.check_commissions() == []


def test_killed_again_and_again_it_still_ends_the_same(history: time_machine.Traveller) -> None:
    wanted = undisturbed(JUNE)
    for name, when in (("_shut", "after"), ("_settle", "after"), ("bulk_create", "after"), ("_settle", "after")):
        killed("run", JUNE, name, when, 1)
    services.run_months()
    assert rows() == wanted
    assert services.check_commissions() == []


@pytest.mark.parametrize(("when", "nth"), [("before", 1), ("after", 1), ("after", 2)])
def test_killed_while_statements_are_sent_each_is_sent_once(
    history: time_machine.Traveller, when: str, nth: int
) -> None:
    services.run_month(month=JUNE)
    assert {mail.dedup_key for mail in mails("settlement")} == keys(MAY)

    killed("send", JUNE, "notify", when, nth)

    assert len(mails("settlement")) == len(keys(MAY)) + nth - 1
    services.send_statements()
    assert services.send_statements() == 0
    assert sorted(mail.dedup_key for mail in mails("settlement")) == sorted(keys(MAY) | keys(JUNE))
    assert not Settlement.objects.filter(told_at=None).exists()


def keys(month: date) -> set[str]:
    return {f"settlement:{pk}" for pk in Settlement.objects.filter(month=month).values_list("pk", flat=True)}


# --- what is run again changes nothing --------------------------------------------------------------


def test_an_old_month_that_is_run_again_takes_nothing_from_the_next(
    history: time_machine.Traveller, root: User
) -> None:
    """What was turned down since is carried into the next run, and not back into a month that was over long ago."""
    services.run_month(month=JUNE)
    history.move_to(datetime(2024, 9, 2, 12, tzinfo=UTC))
    assert services.run_months() == 0
    for settlement in Settlement.objects.filter(state="open", month=JUNE):
        services.reject_settlement(settlement_id=settlement.pk, reason="wrong account", actor=root)
    before = rows()

    assert [services.run_month(month=month) for month in (MAY, JUNE, JULY)] == [0, 0, 0]

    assert rows() == before
    history.move_to(datetime(2024, 10, 2, 12, tzinfo=UTC))
    services.run_months()
    assert not Settlement.objects.filter(state="rejected", carried_to=None).exists()
    assert services.check_commissions() == []


def test_more_resellers_than_one_step_takes_are_all_settled(history: time_machine.Traveller) -> None:
    services.run_month(month=JUNE)
    settled = set(Settlement.objects.filter(month=JUNE).values_list("reseller__user__username", flat=True))
    assert settled == set(RESELLERS)
    assert len(RESELLERS) > 2 * CHUNK
