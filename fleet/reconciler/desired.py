"""What should run on a server, read from the rows; and one relay's full specification, secrets included."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from derp_portal.lib.clock import now
from fleet.derp.keys import derper_key_file
from fleet.engines import image_of, relay_image
from fleet.models import Move, Outage, Relay, Server, Wanted
from fleet.runtimes.base import DEADLINE_FILE, RELAY_DIR, RelaySpec

from .plan import WantedRelay

RATE_FILE = "rate.json"
HOST_ALIAS = "host.docker.internal"
SECRETS = ("derper_key", "certificate_key", "next_certificate_key", "admission_secret", "debug_key")

CLOCK_STANDS = Exists(Outage.objects.filter(group=OuterRef("group"), ended_at=None))
"""Of a relay: its group has an open outage, so that its deadline is being put off."""

FAILS_CLOSED = "-verify-client-url-fail-open=false"
"""With it the relay lets in nobody while the portal does not answer, but for whom the warden remembers."""

FENCE_SLACK = timedelta(minutes=5)
"""The host's own deadline is so much later than ours: it acts only when we do not, and its clock may be ahead."""

SPEED_UNKNOWN = 2**63 - 1
"""The limit in force while the host is being told another one: whoever dies then leaves it to be told again."""


def wanted_rows(server_id: int) -> QuerySet[Relay]:
    """The relays that should run on this server now.

    A deadline that has passed counts although no one has written it down yet; a group whose clock stands
    is still wanted, or it could never recover.
    """
    placed_here = Relay.objects.filter(server_id=server_id, port__isnull=False)
    return (
        placed_here.filter(should_run()).annotate(clock_stands=CLOCK_STANDS).select_related("group", "port", "server")
    )


def should_run() -> Q:
    """Relays that are wanted running and have time left."""
    return Q(Q(group__run_until__gt=now()) | Q(CLOCK_STANDS), released_at=None, wanted=Wanted.RUNNING)


def spared_containers(server_id: int) -> set[str]:
    """Names of containers whose relays are moving away and still serve here until they answer at the new place.

    One that would hold the port its relay has here again is not among them: it gives way to its successor.
    """
    leaving = Move.objects.filter(
        state__in=Move.OPEN, from_server=server_id, relay__in=Relay.objects.filter(should_run())
    ).exclude(relay__server=server_id, relay__port__number=F("from_port"))
    return {f"{code}-{generation}" for code, generation in leaving.values_list("relay__code", "from_generation")}


def desired(server: Server) -> tuple[list[WantedRelay], dict[int, Relay]]:
    """What to plan for, and the rows by id. One query; secrets stay encrypted and unread."""
    rows = {relay.pk: relay for relay in wanted_rows(server.pk).defer(*SECRETS, "group__map_token")}
    image = relay_image(server)
    wanted = [
        WantedRelay(
            relay_id=relay.pk,
            name=relay.container_name,
            digest=digest_of(relay, image_of(relay, image)),
            is_stale=_is_stale(relay),
        )
        for relay in rows.values()
    ]
    return wanted, rows


def _is_stale(relay: Any) -> bool:
    """While the clock stands the deadline moves with every moment; it is told once the relay runs again."""
    has_old_deadline = not relay.clock_stands and relay.applied_deadline != relay.group.run_until
    return bool(has_old_deadline or relay.applied_speed != relay.group.speed_bytes_per_second)


def digest_of(relay: Relay, image: str) -> str:
    """Hex SHA-256 of all that only a new container can change.

    Secrets are represented by what is public of them and changes with them (pin, hash), so that an idle pass
    over hundreds of relays decrypts nothing.
    """
    body = [image, relay.pin, relay.admission_hash, *_public_args(relay), _bind_ip(relay), _admission_base(relay)]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _bind_ip(relay: Relay) -> str:
    """The address on which the host publishes the relay's port; "" for all of them."""
    assert relay.server is not None
    return relay.server.ip if relay.server.is_loopback else ""


def _public_args(relay: Relay) -> list[str]:
    server, port = relay.server, relay.port.number
    assert server is not None
    # In a container every address is its own; a process would open the host's, so a loopback server keeps to its own.
    bind = _bind_ip(relay) if server.runtime == Server.Runtime.PROCESS else ""
    return [
        *("-a", f"{bind}:{port}"),
        *("-http-port", "-1"),
        *("-stun", "-stun-port", str(port)),
        *("-c", f"{RELAY_DIR}/derper.key"),
        *("-certmode", "manual"),
        *("-certdir", RELAY_DIR),
        *("-hostname", relay.host_name),
        *("-rate-config", f"{RELAY_DIR}/{RATE_FILE}"),
        *("-home", "blank"),
        *(() if relay.group.fails_open else (FAILS_CLOSED,)),
    ]


def _admission_base(relay: Relay) -> str:
    """Where the relay asks at the door. A container's own loopback address is not this machine's."""
    assert relay.server is not None
    parts = urlsplit(settings.ADMISSION_URL)
    if relay.server.runtime == Server.Runtime.DOCKER and parts.hostname in ("127.0.0.1", "localhost", "::1"):
        parts = parts._replace(netloc=f"{HOST_ALIAS}:{parts.port or 80}")
    return str(urlunsplit(parts))


def rate_file(relay: Relay) -> bytes:
    """derper's rate configuration for the group's speed; empty when there is no limit."""
    speed = relay.group.speed_bytes_per_second
    rates = {"PerClientRateLimitBytesPerSec": speed, "PerClientRateBurstBytes": speed} if speed else {}
    return json.dumps(rates).encode()


def deadline_file(relay: Relay) -> bytes:
    """When the host stops the relay by itself, should nobody tell it otherwise before."""
    group = relay.group
    outage = group.outages.filter(ended_at=None).first()
    # What a standing clock will give back is given in advance, or a relay that returns would be stopped at once.
    owed = now() - outage.started_at if outage else timedelta()
    return f"{int((group.run_until + owed + FENCE_SLACK).timestamp())}\n".encode()


def full_spec(relay: Relay) -> RelaySpec:
    """Everything the host needs to run the relay. Reads the relay's secrets."""
    server = relay.server
    assert server is not None
    image = image_of(relay, relay_image(server))
    admission = f"{_admission_base(relay)}/derp/admit/{relay.admission_secret}"
    return RelaySpec(
        name=relay.container_name,
        volume=relay.container_name,
        portal_id=settings.PORTAL_ID,
        relay_id=relay.pk,
        generation=relay.generation,
        digest=digest_of(relay, image),
        image=image,
        args=(*_public_args(relay), "-verify-client-url", admission),
        env={"TS_DEBUG_KEY_PATH": f"{RELAY_DIR}/debug.key"},
        files={
            "derper.key": derper_key_file(relay.derper_key),
            f"{relay.host_name}.crt": relay.certificate.encode(),
            f"{relay.host_name}.key": relay.certificate_key.encode(),
            "debug.key": relay.debug_key.encode(),
            RATE_FILE: rate_file(relay),
            DEADLINE_FILE: deadline_file(relay),
        },
        port=relay.port.number,
        bind_ip=_bind_ip(relay),
    )
