"""Ends too far away, bodies too large, pages that are not there, and ids that two maps must not share."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from fleet.models import Relay
from serials.models import Lease, SerialBatch
from serials.services import How, activate
from tests.api_client import Caller, make_code, make_server


@pytest.mark.parametrize("end", ["2100-01-01", "9999-12-31T23:59:59Z"])
def test_no_serial_and_no_lease_can_get_an_end_that_pages_could_not_show(root: User, alice: User, end: str) -> None:
    make_server()
    _serial, lease = activate(user=alice, code=make_code())
    caller, batches = Caller(root), SerialBatch.objects.count()
    status, answer = caller.post("serial/generate", plan="3-days", count=1, activate_before=end)
    assert (status, answer["error"]["code"]) == (400, "invalid_activate_before")
    status, answer = caller.post("user/renew", user_id=alice.pk, until=end)
    assert (status, answer["error"]["code"]) == (400, "date_too_far")
    assert SerialBatch.objects.count() == batches
    assert Lease.objects.get().ends_at == lease.ends_at


def test_the_renewal_page_says_that_a_day_is_too_far_away(client: Client, root: User, alice: User) -> None:
    make_server()
    _serial, lease = activate(user=alice, code=make_code())
    client.force_login(root)
    answer = client.post(reverse("admin:serials_lease_renew", args=[lease.pk]), {"until": "9999-12-31"})
    assert answer.status_code == 200
    assert Lease.objects.get().ends_at == lease.ends_at


def test_a_body_that_is_too_large_is_refused_in_the_envelope(alice: User) -> None:
    status, answer = Caller(alice).post("serial/activate", code="x" * 3_000_000)
    assert (status, answer["error"]["code"]) == (413, "too_large")


def test_a_page_behind_the_last_is_empty(alice: User) -> None:
    make_server()
    activate(user=alice, code=make_code())
    assert Caller(alice).get("lease/list", page=1)[1]["total"] == 1
    status, answer = Caller(alice).get("lease/list", page=999)
    assert (status, answer["items"], answer["pages"]) == (200, [], 1)


def test_relays_of_two_leases_of_one_customer_have_different_region_ids(alice: User) -> None:
    make_server()
    for _lease in range(2):
        activate(user=alice, code=make_code(), how=How.NEW)
    assert len(set(Relay.objects.values_list("region_id", flat=True))) == 2
