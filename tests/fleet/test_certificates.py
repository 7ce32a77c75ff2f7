"""Certificates of relays are renewed long before they end: announced, then switched, one relay of a map at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from django.test import Client
from django.urls import reverse
from time_machine import Traveller

from accounts.models import Notification, User
from fleet.derp.identity import covers, pin_of
from fleet.models import Relay, RelayEvent
from fleet.services.certificates import ANNOUNCED, APART, RENEW_BEFORE, renew_certificates, switch_certificate
from serials.models import Lease
from serials.services import activate
from tests.fleet.fleet_parts import server
from tests.serials.shop import make_plan, new_code_of

pytestmark = [pytest.mark.both_databases, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def clock() -> Iterator[Traveller]:
    with time_machine.travel(datetime(2031, 3, 1, 9, tzinfo=UTC), tick=False) as travel:
        yield travel


@pytest.fixture
def lease(clock: Traveller, alice: User) -> Lease:
    """alice's for two years, with a primary and a standby."""
    server(1)
    server(2)
    return activate(user=alice, code=new_code_of(make_plan(730)))[1]


def relays() -> list[Relay]:
    return list(Relay.objects.order_by("slot"))


def mails(kind: str) -> list[Notification]:
    return list(Notification.objects.filter(kind=kind).order_by("id"))


def until_nearly_over(clock: Traveller) -> None:
    clock.move_to(relays()[0].certificate_ends_at - RENEW_BEFORE + timedelta(minutes=1))
    renew_certificates()


def test_it_is_announced_weeks_ahead_and_switched_one_relay_after_the_other(clock: Traveller, lease: Lease) -> None:
    renew_certificates()
    assert not mails("certificate_soon"), "there is time"
    before = [relay.pin for relay in relays()]
    until_nearly_over(clock)
    renew_certificates()
    assert len(mails("certificate_soon")) == 2, "once for each relay"
    assert [relay.pin for relay in relays()] == before, "nothing changes before its day"
    primary, standby = relays()
    assert standby.next_switch_at is not None
    assert primary.next_switch_at == standby.next_switch_at + APART
    assert standby.next_pin in mails("certificate_soon")[-1].body_text + mails("certificate_soon")[0].body_text

    clock.shift(ANNOUNCED)
    renew_certificates()
    primary, standby = relays()
    assert (primary.pin == before[0], standby.pin == before[1]) == (True, False)
    [mail] = mails("certificate_changed")
    assert before[1] in mail.body_text
    assert standby.pin in mail.body_text
    clock.shift(APART)
    renew_certificates()
    renew_certificates()
    primary, standby = relays()
    assert primary.pin != before[0]
    assert [relay.generation for relay in relays()] == [2, 2], "each was restarted once"
    assert RelayEvent.objects.filter(kind="certificate").count() == 2
    for relay in relays():
        certificate = x509.load_pem_x509_certificate(relay.certificate.encode())
        assert covers(certificate, relay.host_name)
        assert relay.certificate_ends_at == certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=360)
        assert relay.pin == pin_of(certificate.public_bytes(Encoding.DER))
        assert (relay.next_pin, relay.next_switch_at) == ("", None)


def test_after_a_long_sleep_of_the_portal_two_relays_of_a_map_still_do_not_change_together(
    clock: Traveller, lease: Lease
) -> None:
    before = [relay.pin for relay in relays()]
    until_nearly_over(clock)
    clock.shift(ANNOUNCED + APART + timedelta(days=10))
    renew_certificates()
    assert sum(relay.pin != pin for relay, pin in zip(relays(), before, strict=True)) == 1
    clock.shift(APART)
    renew_certificates()
    assert all(relay.pin != pin for relay, pin in zip(relays(), before, strict=True))


def test_a_relay_that_is_gone_is_left_alone(clock: Traveller, lease: Lease) -> None:
    Relay.objects.update(released_at=datetime.now(UTC))
    until_nearly_over(clock)
    assert not mails("certificate_soon")


def test_the_owner_switches_when_it_suits_and_nobody_else_does(
    clock: Traveller, lease: Lease, alice: User, bob: User, client: Client
) -> None:
    until_nearly_over(clock)
    primary, _standby = relays()
    address = reverse("certificate_switch", args=[lease.pk, primary.code])
    client.force_login(bob)
    assert client.post(address).status_code == 404
    client.force_login(alice)
    page = client.get(reverse("hand_over", args=[lease.pk])).content.decode()
    assert primary.next_pin in page
    assert "hand it over again at once" in client.get(address).content.decode()
    client.post(address)
    assert relays()[0].pin == primary.next_pin
    assert not switch_certificate(relay_id=primary.pk, actor=alice), "there is none any more"
