"""The whole story without a browser: a serial is redeemed, a relay serves, its limit changes, the lease runs out."""

from __future__ import annotations

from accounts.models import User
from derp_portal.lib.clock import now
from fleet import services
from fleet.acl.doors import forget
from fleet.derp.client import DerpClient
from fleet.derp.errors import RelayFailure
from fleet.derp.keys import derive_private
from fleet.models import Relay, RelayGroup, RelayHealth, Server, Wanted
from fleet.monitoring.probing import probe_relays
from fleet.reconciler.loop import reconcile
from fleet.selectors import RelayState, relay_state
from fleet.services import GroupTerms
from serials.services import activate
from tests.fleet.engines import answers, wait_until
from tests.fleet.fleet_parts import only_relay
from tests.serials.shop import make_plan, new_code_of

SPEED = 250_000


def redeemed_relay(owner: User, here: Server) -> Relay:
    """A relay that `owner` got for a serial, started on `here` by one pass and seen healthy by the portal's probe."""
    _serial, lease = activate(user=owner, code=new_code_of(make_plan(3)))
    reconcile(here.pk)
    relay = only_relay(lease.relay_group)
    assert (relay.trouble_code, relay.trouble_detail) == ("", "")
    assert relay.is_running
    healthy = RelayHealth.objects.filter(relay=relay, status=RelayHealth.Status.HEALTHY)
    wait_until(lambda: probe_relays([relay], timeout=20)[0].healthy and healthy.exists(), what="a healthy probe")
    relay = Relay.objects.select_related("group", "health", "server", "port").get(pk=relay.pk)
    assert relay_state(relay) == RelayState.UP
    return relay


def client(relay: Relay, name: str) -> DerpClient:
    assert relay.server is not None
    return DerpClient(
        ip=relay.server.ip,
        port=relay.port.number,
        host_name=relay.host_name,
        pin=relay.pin,
        private_key=derive_private(b"story", name),
        timeout=30,
    )


def exchange_packets(relay: Relay) -> None:
    with client(relay, "phone") as phone, client(relay, "laptop") as laptop:
        phone.send_packet(laptop.node_key, b"are you there?")
        assert laptop.recv() == (phone.node_key, b"are you there?")
        laptop.send_packet(phone.node_key, b"yes")
        assert phone.recv().payload == b"yes"


def change_speed(relay: Relay, here: Server) -> None:
    """The plan gets a limit: the running relay takes it without a restart."""
    terms = GroupTerms(speed=SPEED)
    services.set_group(group_id=relay.group_id, wanted=Wanted.RUNNING, terms=terms, actor=None)
    reconcile(here.pk)
    after = Relay.objects.get(pk=relay.pk)
    assert (after.applied_speed, after.container_id, after.generation) == (SPEED, relay.container_id, relay.generation)
    exchange_packets(relay)


def run_out(relay: Relay, here: Server) -> None:
    """The deadline passes and nobody is told: the door closes at once, the next pass ends the relay."""
    RelayGroup.objects.filter(pk=relay.group_id).update(run_until=now())
    # The door remembers the deadline for some seconds; by itself it would not have been moved.
    forget(relay.group_id)
    try:
        with client(relay, "phone"):
            raise AssertionError("the door let a client in after the end")
    except RelayFailure as refusal:
        assert refusal.code == "denied"
    reconcile(here.pk)
    wait_until(lambda: not answers(relay.port.number), what="a closed port")
    assert Relay.objects.get(pk=relay.pk).observed_state == Relay.Observed.ABSENT
