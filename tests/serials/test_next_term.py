"""The customer begins the next term early: the page asks first, and a second click changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import time_machine
from django.test import Client
from django.urls import reverse

from accounts.models import User
from serials.models import Lease, LeaseTerm, Plan
from serials.services import How, activate
from tests.serials.shop import START, make_plan, new_code_of

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def january() -> Iterator[None]:
    """Thirty days from there are less than a month, and so are said in weeks; from February's they are more."""
    with time_machine.travel(START):
        yield


@pytest.fixture
def plan() -> Plan:
    return make_plan(30, quota_bytes=100 * 1000**3)


@pytest.fixture
def lease(alice: User, plan: Plan) -> Lease:
    """Two terms one after the other."""
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    activate(user=alice, code=new_code_of(plan), how=How.QUEUE, lease_id=lease.pk)
    return lease


@pytest.fixture
def browser(alice: User) -> Client:
    client = Client()
    client.force_login(alice)
    return client


def waiting(lease: Lease) -> LeaseTerm:
    return lease.terms.get(state=LeaseTerm.State.QUEUED)


def test_the_lease_offers_it_and_the_page_says_what_is_given_up(browser: Client, lease: Lease) -> None:
    address = reverse("lease_next_term", args=[lease.pk])
    assert address in browser.get(reverse("lease", args=[lease.pk])).text
    page = browser.get(address).text
    assert "4\xa0weeks" in page
    assert "100 GB" in page
    assert waiting(lease).pk, "looking changes nothing"


def test_it_begins_once_however_often_the_button_is_pressed(browser: Client, lease: Lease) -> None:
    address, data = reverse("lease_next_term", args=[lease.pk]), {"term_id": waiting(lease).pk}
    assert "begun" in browser.post(address, data, follow=True).text
    begun = lease.terms.get(state=LeaseTerm.State.CURRENT)
    assert begun.source == LeaseTerm.Source.BROUGHT_FORWARD
    assert "Nothing was changed" in browser.post(address, data, follow=True).text
    assert lease.terms.get(state=LeaseTerm.State.CURRENT) == begun


def test_time_that_makes_up_for_an_outage_promises_no_traffic(browser: Client, lease: Lease) -> None:
    term = waiting(lease).pk
    LeaseTerm.objects.filter(pk=term).update(source=LeaseTerm.Source.COMPENSATION, serial=None)
    address = reverse("lease_next_term", args=[lease.pk])
    page = browser.get(address).text
    assert "brings no fresh traffic" in page
    assert "100 GB" not in page
    said = browser.post(address, {"term_id": term}, follow=True).text
    assert "The next term has begun." in said
    assert "quota of its own" not in said


def test_without_a_term_to_come_there_is_nothing_to_begin(browser: Client, alice: User, plan: Plan) -> None:
    _serial, lease = activate(user=alice, code=new_code_of(plan))
    address = reverse("lease_next_term", args=[lease.pk])
    assert address not in browser.get(reverse("lease", args=[lease.pk])).text
    assert "no term to come" in browser.get(address, follow=True).text
    assert "Nothing was changed" in browser.post(address, {"term_id": 0}, follow=True).text
    assert lease.terms.get().state == LeaseTerm.State.CURRENT
