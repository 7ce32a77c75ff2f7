"""Which relays a roll-out is about: those that lack its image, may get it now, speak for it or against it.

A relay that worked when it was given the image has an event of that moment that names the image. By those relays the
roll-out is judged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Value, When

from derp_portal.lib.clock import now
from fleet.engines import fleet_image
from fleet.models import Move, Relay, RelayEvent, RelayHealth, Rollout, Server, Wanted
from fleet.reconciler.desired import SECRETS, should_run

PROOF = timedelta(minutes=2)
"""So long after its start a relay of the canary must still answer before others follow."""
START_PATIENCE = timedelta(minutes=3)
"""A relay that does not run so long after it was to be replaced does not start."""
SETTLING = timedelta(seconds=10)
"""A probe sooner after the start tells nothing."""
PROBED_WITHIN = timedelta(minutes=2)
"""A relay that works has answered a probe so lately; one that probes have given up on has not."""

NOT_THE_IMAGE = (
    *("unreachable", "connection_refused", "name_unknown", "no_socket", "ssh_failed", "timeout", "busy", "host_lost"),
    *("port_taken", "name_taken", "secret_unreadable", "no_server", "no_room", "no_port", "quarantined"),
)
"""Troubles of a host or a place. They stop nothing unless the relay does not start for long."""

_SET_UP = (RelayEvent.Kind.RESTARTED, RelayEvent.Kind.MOVED, RelayEvent.Kind.PLACED, RelayEvent.Kind.PORT_CHANGED)


def on_docker_hosts() -> QuerySet[Any]:
    """Live relays on Docker hosts, or without a place; their secrets stay unread."""
    is_there = Q(server=None) | Q(server__runtime=Server.Runtime.DOCKER)
    return Relay.objects.filter(is_there, released_at=None).defer(*SECRETS)


def lacking(image: str) -> QuerySet[Any]:
    """Those that run, or would run, another image."""
    others = on_docker_hosts().exclude(image=image)
    return others.exclude(image="") if fleet_image() == image else others


def count_running() -> int:
    """How many relays should run on Docker hosts now: what a percentage an hour is of."""
    return on_docker_hosts().filter(should_run(), server__isnull=False).count()


def idle(image: str) -> QuerySet[Any]:
    """Those lacking it that do not have to run now, or have no place."""
    return lacking(image).exclude(should_run(), server__isnull=False)


def ill_with(image: str, *, wanted_image: str) -> QuerySet[Any]:
    """Those that should run on healthy hosts, do not work, and have `image` instead of the other."""
    return lacking(wanted_image).filter(should_run(), is_ill(), image=image, server__phase=Server.Phase.HEALTHY)


def runs() -> Q:
    """Relays whose host last showed this very generation running."""
    return Q(observed_state=Relay.Observed.RUNNING, observed_generation=F("generation"))


def serves() -> Q:
    """Relays that run, and have answered a probe since they started."""
    answers = Q(health__status=RelayHealth.Status.HEALTHY, health__healthy_at__gte=F("started_at"))
    return runs() & answers & Q(trouble_code="")


def is_ill() -> Q:
    """Relays in trouble, or that probes have given up on."""
    return ~Q(trouble_code="") | Q(health__status=RelayHealth.Status.UNHEALTHY)


SERVES = Case(When(serves(), then=Value(True)), default=Value(False))


def possible_canaries(image: str) -> QuerySet[Server]:
    """Healthy Docker hosts where relays run that lack the image and can show it, the one with the fewest first."""
    to_try = lacking(image).filter(should_run(), runs(), ~is_ill())
    here = Q(relays__released_at=None, relays__observed_state=Relay.Observed.RUNNING)
    return (
        Server.objects.filter(runtime=Server.Runtime.DOCKER, phase=Server.Phase.HEALTHY, pk__in=to_try.values("server"))
        .annotate(running=Count("relays", filter=here))
        .order_by("running", "pk")
    )


def has_use_of_canary(rollout: Rollout) -> bool:
    """Whether the canary may still have a relay that lacks the image and can show it: it is not lost, or empty."""
    canary = rollout.canary
    if canary is None or canary.phase == Server.Phase.UNHEALTHY:
        return False
    return lacking(rollout.image).filter(should_run(), ~is_ill(), server=canary).exists()


def _with_changed_at(relays: QuerySet[Any], rollout: Rollout) -> QuerySet[Any]:
    """With the moment at which each was last given this roll-out's image while it worked."""
    marks = RelayEvent.objects.filter(
        relay=OuterRef("pk"),
        kind=RelayEvent.Kind.RESTARTED,
        detail=rollout.image,
        created_at__gte=rollout.started_at,
    )
    return _with(relays, changed_at=Subquery(marks.order_by("-id").values("created_at")[:1]))


def _with(relays: QuerySet[Any], **columns: Any) -> QuerySet[Any]:
    annotated: QuerySet[Any] = relays.annotate(**columns)
    return annotated


def marked(rollout: Rollout) -> QuerySet[Any]:
    """Relays that were given the image while they worked and should still run, with `changed_at`."""
    given: QuerySet[Any] = on_docker_hosts().filter(should_run(), image=rollout.image)
    return _with_changed_at(given, rollout).filter(changed_at__isnull=False)


def judged(rollout: Rollout) -> QuerySet[Any]:
    """Those of them that speak for or against the image: their host is healthy and they are not on the way elsewhere.

    After a resumption, those that did not work by then do not count any more.
    """
    found = marked(rollout).filter(server__phase=Server.Phase.HEALTHY).exclude(moves__state=Move.State.PLACED)
    if rollout.paced_from is None:
        return found
    worked_then = Q(
        health__healthy_at__gte=F("changed_at"),
        health__healthy_at__gt=rollout.paced_from - PROBED_WITHIN,
    )
    return found.filter(Q(changed_at__gte=rollout.paced_from) | worked_then)


def is_canary_proven(rollout: Rollout) -> bool:
    """Whether every relay tried has the image running and still answered a while after its start."""
    proven = judged(rollout).filter(
        serves(), started_at__gte=F("changed_at"), health__healthy_at__gte=F("started_at") + PROOF
    )
    return judged(rollout).count() == proven.count()


def do_all_serve(rollout: Rollout) -> bool:
    """Whether every relay that counts runs with the image and has answered since."""
    serving = judged(rollout).filter(serves(), started_at__gte=F("changed_at"))
    return judged(rollout).count() == serving.count()


def failing(rollout: Rollout) -> QuerySet[Any]:
    """Relays that speak against the image: in trouble, running without answering probes, or not starting."""
    set_up = RelayEvent.objects.filter(relay=OuterRef("pk"), kind__in=_SET_UP).order_by("-id")
    is_in_trouble = ~Q(trouble_code="") & ~Q(trouble_code__in=NOT_THE_IMAGE) & Q(trouble_since__gte=F("changed_at"))
    fails_probes = Q(
        health__status=RelayHealth.Status.UNHEALTHY,
        started_at__gte=F("changed_at"),
        health__checked_at__gte=F("started_at") + SETTLING,
    )
    has_not_started = ~runs() & (Q(started_at=None) | Q(started_at__lt=F("changed_at")))
    is_late = Q(set_up_at__lt=now() - START_PATIENCE) & has_not_started
    found = _with(judged(rollout), set_up_at=Subquery(set_up.values("created_at")[:1]))
    return found.filter(is_in_trouble | fails_probes | is_late).order_by("pk")


def ready(rollout: Rollout) -> QuerySet[Any]:
    """Relays that may be given the image now, with `serves`: on healthy hosts, and without leaving anybody with none.

    The other relay of a map must serve, and one that has just been changed must have shown that it does. A relay that
    is ill has nothing to lose; one that is just starting is left to it.
    """
    siblings: QuerySet[Any] = Relay.objects.filter(group=OuterRef("group"), released_at=None, wanted=Wanted.RUNNING)
    siblings = siblings.exclude(pk=OuterRef("pk"))
    changed = _with(_with_changed_at(siblings.filter(image=rollout.image), rollout), serves=SERVES)
    changing = changed.filter(Q(serves=False) | Q(started_at__lt=F("changed_at")), changed_at__isnull=False)
    leaves_one = ~Exists(siblings) | Exists(siblings.filter(serves()))
    settled = (
        lacking(rollout.image)
        .filter(should_run(), server__phase=Server.Phase.HEALTHY)
        .exclude(moves__state=Move.State.PLACED)
        .exclude(Exists(changing))
    )
    return _with(settled, serves=SERVES).filter(Q(Q(serves=True), leaves_one) | is_ill())


@dataclass
class ServerProgress:
    """One server's relays: how many have the image, what they are to run, and the versions that answered.

    `server_id` None and `server` "" are for relays without a place.
    """

    server_id: int | None
    server: str
    done: int = 0
    total: int = 0
    images: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)


@dataclass
class Progress:
    """How many live relays on Docker hosts have the image of a roll-out now."""

    done: int
    total: int
    servers: list[ServerProgress]

    @property
    def percent(self) -> int:
        """Rounded down, so that 100 means all."""
        return 100 * self.done // self.total if self.total else 100


def progress_of(rollout: Rollout) -> Progress:
    """The state of the fleet beside the roll-out's image, server by server, by name. Two queries."""
    rows = versions_by_server()
    for row in rows:
        row.done = row.images.get(rollout.image, 0)
    return Progress(sum(row.done for row in rows), sum(row.total for row in rows), rows)


def versions_by_server() -> list[ServerProgress]:
    """What relays on each Docker host are to run, and what answers there, by name; `done` is 0. Two queries."""
    present = fleet_image()
    counted = on_docker_hosts().values_list("server", "server__name", "image", "health__version").annotate(Count("pk"))
    servers: dict[int | None, ServerProgress] = {}
    for server_id, name, image, version, count in counted.order_by("server__name", "image", "health__version"):
        one = servers.setdefault(server_id, ServerProgress(server_id, name or ""))
        one.total += count
        one.images[image or present] = one.images.get(image or present, 0) + count
        if version:
            one.versions[version] = one.versions.get(version, 0) + count
    return list(servers.values())
