"""Serials: what is refused says why and changes nothing, and nobody learns which codes exist."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import translation

from accounts.models import AuditEntry, User
from accounts.ratelimit import RateLimited
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from serials.codes import grouped, new_code
from serials.models import Lease, Plan, SerialBatch, SerialNumber
from serials.services import activate, attempts, end_lease, generate, preview, revoke_serials, verify_binding
from serials.services.numbers import SerialRefused
from tests.conftest import make_user
from tests.serials.shop import START, make_server, new_code_of, new_codes, nothing_changes

pytestmark = pytest.mark.django_db
DAY = timedelta(days=1)


# --- serials that cannot be redeemed ---------------------------------------------------------------


def malformed(_plan: Plan, _alice: User, _bob: User) -> str:
    return "0" * 23 + "1"


def unknown(_plan: Plan, _alice: User, _bob: User) -> str:
    return new_code()


def used(plan: Plan, _alice: User, bob: User) -> str:
    code = new_code_of(plan)
    activate(user=bob, code=code)
    return code


def used_up(plan: Plan, alice: User, bob: User) -> str:
    code = used(plan, alice, bob)
    SerialNumber.objects.filter(code=code).update(status="expired", expires_at=now() - DAY)
    return code


def yours(plan: Plan, alice: User, _bob: User) -> str:
    code = new_code_of(plan)
    activate(user=alice, code=code)
    return code


def revoked(plan: Plan, _alice: User, _bob: User) -> str:
    code = new_code_of(plan)
    revoke_serials(serials=SerialNumber.objects.filter(code=code).values_list("id", flat=True), actor=None)
    return code


def expired(plan: Plan, _alice: User, _bob: User) -> str:
    """Past its last day, whether or not the sweep has seen it."""
    code = new_code_of(plan, activate_before=now() + DAY)
    SerialNumber.objects.filter(code=code).update(expires_at=now())
    return code


WRONG = [
    pytest.param(malformed, "serial_malformed", "not a valid serial number", id="malformed"),
    pytest.param(unknown, "serial_unknown", "do not know", id="unknown"),
    pytest.param(used, "serial_used", "by another account", id="used"),
    pytest.param(used_up, "serial_used", "by another account", id="used and over"),
    pytest.param(yours, "serial_yours", "You have redeemed", id="yours"),
    pytest.param(revoked, "serial_revoked", "withdrawn", id="revoked"),
    pytest.param(expired, "serial_expired", "last day", id="expired"),
]


@pytest.mark.parametrize("look", [activate, preview])
@pytest.mark.parametrize(("make", "reason", "message"), WRONG)
def test_a_wrong_serial_says_what_is_wrong_and_changes_nothing(
    look: Callable[..., object],
    make: Callable[[Plan, User, User], str],
    reason: str,
    message: str,
    alice: User,
    bob: User,
    plan: Plan,
) -> None:
    code = make(plan, alice, bob)

    with translation.override("en"), nothing_changes(), pytest.raises(SerialRefused, match=message) as refused:
        look(user=alice, code=code)

    assert refused.value.code == reason
    assert 400 <= refused.value.status < 500


def test_malformed_and_unknown_take_the_same_path(alice: User, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []

    class CountingCache:
        def __getattr__(self, name: str) -> Any:
            touched.append(name)
            return getattr(original, name)

    original = cache
    monkeypatch.setattr(attempts, "cache", CountingCache())

    def trace(code: str) -> tuple[list[str], list[str]]:
        touched.clear()
        with CaptureQueriesContext(connection) as queries, pytest.raises(SerialRefused):
            activate(user=alice, code=code, ip="192.0.2.7")
        statements = [query["sql"].replace(code or "…", "…") for query in queries]
        return [sql for sql in statements if "SAVEPOINT" not in sql], list(touched)

    shapes = [trace(code) for code in (new_code(), "0" * 23 + "1", "not a code", "", new_code())]

    assert [len(queries) for queries, _cache in shapes] == [len(shapes[0][0])] * len(shapes)
    assert all(cache == shapes[0][1] for _queries, cache in shapes)
    assert shapes[0][1], "nothing counted the attempts"
    assert shapes[0][0] == shapes[1][0]


def test_a_serial_is_found_however_it_is_typed(alice: User, plan: Plan) -> None:
    code = new_code_of(plan)

    serial, _lease = activate(user=alice, code=f" {grouped(code).lower()} ")

    assert serial.code == code


def test_looks_from_anywhere_in_a_network_of_ipv6_count_together(
    alice: User, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "IP_LIMITS", {60: 1})
    with time_machine.travel(START, tick=False):
        attempts.count_refusal(user=alice, ip="2001:db8::1")
        attempts.refuse_guessers(user=bob, ip="2001:db8:0:1::2")
        with pytest.raises(RateLimited):
            attempts.refuse_guessers(user=bob, ip="2001:db8::2")


def test_looks_are_limited_for_each_person_and_each_address(alice: User, bob: User, plan: Plan) -> None:
    good = new_code_of(plan)
    neighbours = [make_user(f"neighbour{number}") for number in range(5)]
    with time_machine.travel(START, tick=False) as clock:
        for user in (alice, *neighbours):
            preview(user=bob, code=good, ip="192.0.2.7")  # Ten refusals of one person do not lock out their network.
            for _attempt in range(10):
                with pytest.raises(SerialRefused):
                    activate(user=user, code=new_code(), ip="192.0.2.7")

        with (
            CaptureQueriesContext(connection) as queries,
            nothing_changes(),
            pytest.raises(RateLimited) as limited,
        ):
            activate(user=alice, code=good, ip="192.0.2.8")
        with pytest.raises(RateLimited):
            preview(user=bob, code=good, ip="192.0.2.7")

        assert not any(good in query["sql"] for query in queries), "refused only after looking"
        assert limited.value.status == 429
        clock.shift(timedelta(seconds=limited.value.extra["retry_after"]))
        activate(user=alice, code=good, ip="192.0.2.8")


def test_looks_are_limited_by_the_hour_too(alice: User, plan: Plan) -> None:
    with time_machine.travel(START, tick=False) as clock:
        for _attempt in range(60):
            with pytest.raises(SerialRefused):
                activate(user=alice, code=new_code())
            clock.shift(timedelta(seconds=10))
        with pytest.raises(RateLimited):
            activate(user=alice, code=new_code())


def test_looks_that_find_what_they_name_cost_nothing(alice: User, plan: Plan) -> None:
    with time_machine.travel(START, tick=False):
        for code in new_codes(plan, 70):
            preview(user=alice, code=code, ip="192.0.2.7")
            activate(user=alice, code=code, ip="192.0.2.7")

    assert SerialNumber.objects.filter(user=alice).count() == 70


@pytest.mark.parametrize("whose", ["nobody's", "bob's"])
def test_a_serial_is_not_lost_on_a_lease_that_is_not_yours(alice: User, bob: User, plan: Plan, whose: str) -> None:
    _serial, his = activate(user=bob, code=new_code_of(plan))
    code = new_code_of(plan)

    with nothing_changes(), pytest.raises(PortalError) as refused:
        activate(user=alice, code=code, lease_id=his.pk if whose == "bob's" else 10**6)

    assert (refused.value.code, refused.value.status) == ("lease_not_found", 404)
    activate(user=alice, code=code)


# --- making and revoking ---------------------------------------------------------------------------


def test_a_hundred_thousand_serials_are_made_in_one_call(root: User, plan: Plan) -> None:
    batch = generate(count=100_000, plan=plan, actor=root)

    assert batch.serials.count() == 100_000
    assert batch.serials.values("code").distinct().count() == 100_000
    assert set(batch.serials.values_list("status", "duration_days").distinct()) == {("unused", 30)}
    assert AuditEntry.objects.filter(event="serials.generated").count() == 1


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"count": 0}, "invalid_count"),
        ({"count": 100_001}, "invalid_count"),
        ({"duration_days": 0}, "invalid_days"),
        ({"duration_days": 3661}, "invalid_days"),
        ({"activate_before": START - DAY}, "invalid_activate_before"),
    ],
)
def test_what_makes_no_sense_makes_no_serials(plan: Plan, wrong: dict[str, Any], reason: str) -> None:
    with time_machine.travel(START, tick=False), nothing_changes(), pytest.raises(PortalError) as refused:
        generate(**{"count": 1, "plan": plan, "actor": None, **wrong})

    assert refused.value.code == reason


def test_without_a_plan_the_days_choose_it() -> None:
    assert generate(count=1, duration_days=5, actor=None).plan.code == "5-days"
    odd = generate(count=1, duration_days=11, actor=None)
    assert (odd.plan.code, odd.duration_days) == ("3-days", 11)
    assert generate(count=1, actor=None).duration_days == 3
    Plan.objects.update(is_public=False)
    with pytest.raises(PortalError, match="no plan"):
        generate(count=1, duration_days=5, actor=None)
    assert SerialBatch.objects.count() == 3


def test_only_unused_serials_are_revoked(alice: User, root: User, plan: Plan) -> None:
    codes = new_codes(plan, 3)
    activate(user=alice, code=codes[0])
    SerialNumber.objects.filter(code=codes[1]).update(status="expired")
    ids = list(SerialNumber.objects.values_list("id", flat=True))

    assert revoke_serials(serials=ids, actor=root) == 1
    assert revoke_serials(serials=ids, actor=root) == 0

    states = dict(SerialNumber.objects.values_list("code", "status"))
    assert [states[code] for code in codes] == ["used", "expired", "revoked"]
    assert AuditEntry.objects.filter(event="serials.revoked").count() == 1


# --- what belongs together -------------------------------------------------------------------------


def test_a_binding_is_verified_against_user_relay_and_server(alice: User, bob: User, plan: Plan) -> None:
    code, his_code = new_codes(plan, 2)
    _serial, lease = activate(user=alice, code=code)
    _serial, his = activate(user=bob, code=his_code)
    relay, his_relay = lease.relay_group.relays.get(), his.relay_group.relays.get()
    elsewhere = make_server("elsewhere")

    def verdict(**question: Any) -> str:
        answer = verify_binding(**{"code": code, "user_id": alice.pk, **question})
        assert answer.valid == (not answer.reason)
        return answer.reason

    assert verdict() == verdict(code=grouped(code).lower()) == ""
    assert verdict(relay_code=relay.code) == verdict(relay_code=relay.code, server_id=relay.server_id) == ""
    assert verdict(server_id=relay.server_id) == ""
    assert verdict(code=new_code()) == verdict(code="") == "unknown_serial"
    assert verdict(user_id=bob.pk) == "other_user"
    assert verdict(relay_code=his_relay.code) == verdict(relay_code="nothing") == "other_relay"
    assert verdict(relay_code=relay.code, server_id=elsewhere.pk) == "other_server"
    assert verdict(server_id=elsewhere.pk) == "other_server"
    end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=None)
    assert verdict() == verdict(relay_code=relay.code) == "over"
