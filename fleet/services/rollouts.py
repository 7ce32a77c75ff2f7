"""Roll-outs: a new relay image goes to a canary server first, then to so many relays an hour, and stops when it fails.

A relay that gets the image keeps name, key, pin, address, port and generation; the next pass replaces its container.
Each relay that worked until then leaves an event naming the image. Those relays are the ones by which the roll-out is
judged; one that was ill before gets the image too, last, and says nothing about it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Value, When
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.engines import fleet_image
from fleet.models import Alert, Move, Relay, RelayEvent, RelayGroup, RelayHealth, Rollout, Server, Wanted
from fleet.reconciler.desired import SECRETS, should_run
from fleet.runtimes.base import Rejected
from fleet.runtimes.image import image_name, stored_archive
from fleet.words import trouble

from .alerts import raise_alert, resolve_alert
from .events import relay_event
from .groups import restart_in_place
from .wake import wake_server

log = structlog.get_logger(__name__)

State = Rollout.State
MOVING = (State.CANARY, State.RUNNING)

PROOF = timedelta(minutes=2)
"""So long after its start a relay of the canary must still answer before others follow."""
START_PATIENCE = timedelta(minutes=3)
"""A relay that does not run so long after it was to be replaced does not start."""
SETTLING = timedelta(seconds=10)
"""A probe sooner after the start tells nothing."""
PROBED_WITHIN = timedelta(minutes=2)
"""A relay that works has answered a probe so lately; one that probes have given up on has not."""
STEPS_AN_HOUR = 12
"""At least so many steps make an hour's share, also when the portal or the servers were away for hours."""
ROLL_BACK_PERCENT = 100
IDLE_AT_ONCE = 1000

NOT_THE_IMAGE = (
    *("unreachable", "connection_refused", "name_unknown", "no_socket", "ssh_failed", "timeout", "busy", "host_lost"),
    *("port_taken", "name_taken", "secret_unreadable", "no_server", "no_room", "no_port", "quarantined"),
)
"""Troubles of a host or a place. They stop nothing unless the relay does not start for long."""

STOPPED: dict[str, Promise] = {
    "by_hand": gettext_lazy("An operator stopped it."),
    "probes_fail": gettext_lazy("A relay with the new image does not answer its probes."),
    "does_not_start": gettext_lazy("A relay with the new image does not start."),
}

_REFERENCE = re.compile(
    r"(?:[a-zA-Z0-9][a-zA-Z0-9.-]*(?::\d{1,5})?/)?[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
    r"(?=[:@])(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_SET_UP = (RelayEvent.Kind.RESTARTED, RelayEvent.Kind.MOVED, RelayEvent.Kind.PLACED, RelayEvent.Kind.PORT_CHANGED)


# --- what operators may do ------------------------------------------------------------------------


def start_rollout(
    *, image: str, canary_id: int | None = None, percent_per_hour: int = 20, actor: User | None
) -> Rollout:
    """Begin to bring `image` to every relay on a Docker host; the sweep `advance_rollout` does the rest.

    Without `canary_id` the canary is the healthy server with the fewest running relays.

    Raises Server.DoesNotExist and PortalError `invalid_image`, `image_missing`, `invalid_pace`, `canary_unfit`,
    `rollout_open`, `nothing_to_do`.
    """
    image = image.strip()
    _check_image(image)
    if not 1 <= percent_per_hour <= 100:
        raise PortalError(_("The pace must be from 1 to 100 percent an hour."), code="invalid_pace", status=422)
    with transaction.atomic():
        if Rollout.objects.filter(state__in=Rollout.OPEN).exists():
            raise _is_open()
        if fleet_image() == image and not _lacking(image).exists():
            raise _nothing_to_do()
        return _create(image=image, canary=_canary(image, canary_id), percent_per_hour=percent_per_hour, actor=actor)


def _create(**fields: Any) -> Rollout:
    try:
        with transaction.atomic():
            rollout = Rollout.objects.create(**fields)
    except IntegrityError as error:
        raise _is_open() from error  # Somebody else began one at this very moment.
    record(
        actor=rollout.actor,
        event="rollout.started",
        target=rollout,
        image=rollout.image,
        canary=rollout.canary_id,
        percent_per_hour=rollout.percent_per_hour,
    )
    return rollout


def _is_open() -> PortalError:
    return PortalError(
        _("Another roll-out is not finished. Let it end, or call it off first."), code="rollout_open", status=409
    )


def _nothing_to_do() -> PortalError:
    return PortalError(_("Every relay has this image already."), code="nothing_to_do", status=409)


def _check_image(image: str) -> None:
    """Refuse what no host could get: each host gets it from the portal's store or from the registry it names."""
    if len(image) > 200 or not _REFERENCE.fullmatch(image):
        raise PortalError(
            _("This is not an image's name with its version, such as %(example)s or %(other)s.")
            % {"example": image_name(), "other": "registry.example.com/derper:1.102.3"},
            code="invalid_image",
            status=422,
        )
    first, slash, _rest = image.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return
    try:
        stored_archive(image, settings.IMAGES_DIR)
    except Rejected as error:
        raise PortalError(
            _("The portal has not stored the image %(image)s. Build it there first, or name its registry too.")
            % {"image": image},
            code="image_missing",
            status=422,
        ) from error


def _canary(image: str, canary_id: int | None) -> Server | None:
    """The server to begin with; None when nothing that could show anything runs anywhere yet."""
    fit = _possible_canaries(image)
    if canary_id is None:
        return fit.first()
    named = Server.objects.get(pk=canary_id)
    found = fit.filter(pk=canary_id).first()
    if found is None:
        raise PortalError(
            _("%(server)s cannot go first: it must be a healthy Docker host on which a relay without the image runs.")
            % {"server": named.name},
            code="canary_unfit",
            status=409,
        )
    return found


def _possible_canaries(image: str) -> QuerySet[Server]:
    """Healthy Docker hosts that run relays without the image, the one with the fewest running relays first."""
    to_try = _lacking(image).filter(should_run(), _runs())
    here = Q(relays__released_at=None, relays__observed_state=Relay.Observed.RUNNING)
    return (
        Server.objects.filter(runtime=Server.Runtime.DOCKER, phase=Server.Phase.HEALTHY, pk__in=to_try.values("server"))
        .annotate(running=Count("relays", filter=here))
        .order_by("running", "pk")
    )


def stop_rollout(*, rollout_id: int, actor: User | None) -> Rollout:
    """Change no more relays until it is resumed. Stopping twice is fine.

    Raises Rollout.DoesNotExist, PortalError `rollout_ended`.
    """
    with transaction.atomic():
        rollout = _locked_open(rollout_id)
        if rollout.state != State.STOPPED:
            rollout.state, rollout.stopped_because = State.STOPPED, "by_hand"
            rollout.save(update_fields=["state", "stopped_because"])
            record(actor=actor, event="rollout.stopped", target=rollout, reason="by_hand")
    return rollout


def resume_rollout(*, rollout_id: int, actor: User | None) -> Rollout:
    """Go on where it stopped, at its pace from now on. Resuming what moves is fine.

    On the canary, relays that failed get a fresh container and must work this time. Later on, those that fail at this
    moment are taken to fail for other reasons: only another one stops it again.

    Raises Rollout.DoesNotExist, PortalError `rollout_ended`.
    """
    with transaction.atomic():
        rollout = _locked_open(rollout_id)
        is_on_canary = rollout.paced_from is None
    if rollout.state == State.STOPPED and is_on_canary:
        # Before it moves again, or the next sweep would stop it for what is just being mended.
        for relay in list(_failing(rollout)):
            _start_afresh(relay.pk, relay.group_id, rollout.image)
    with transaction.atomic():
        rollout = _locked_open(rollout_id)
        if rollout.state == State.STOPPED:
            rollout.state, rollout.stopped_because = State.CANARY if is_on_canary else State.RUNNING, ""
            if not is_on_canary:
                rollout.paced_from, rollout.paced_done = now(), 0
            rollout.save(update_fields=["state", "stopped_because", "paced_from", "paced_done"])
            resolve_alert(Alert.Kind.ROLLOUT_STOPPED, subject=str(rollout.pk))
            record(actor=actor, event="rollout.resumed", target=rollout)
    return rollout


def _start_afresh(relay_id: int, group_id: int, image: str) -> None:
    with transaction.atomic():
        RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = Relay.objects.get(pk=relay_id)
        if relay.released_at is None and relay.image == image:
            restart_in_place(relay)
            relay_event(relay, RelayEvent.Kind.RESTARTED, image)


def cancel_rollout(*, rollout_id: int, actor: User | None) -> Rollout:
    """Call it off: relays that have the image keep it, no other gets it. What has ended already stays as it ended.

    Raises Rollout.DoesNotExist.
    """
    with transaction.atomic():
        rollout = Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=rollout_id)
        if rollout.is_open:
            _end(rollout, State.CANCELLED)
            record(actor=actor, event="rollout.cancelled", target=rollout)
    return rollout


def roll_back(*, rollout_id: int, actor: User | None) -> Rollout:
    """Call the latest roll-out off and bring the image before it back to all relays. Returns that new roll-out.

    Relays that do not work with the image go back at once; the others within an hour and without a canary, since they
    ran the former image before.

    Raises Rollout.DoesNotExist, PortalError `not_latest`, `nothing_to_do`.
    """
    with transaction.atomic():
        rollout = Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=rollout_id)
        if Rollout.objects.filter(pk__gt=rollout.pk).exists():
            raise PortalError(
                _("Only the latest roll-out can be rolled back. Start one with the image you want."),
                code="not_latest",
                status=409,
            )
        former = _image_before(rollout)
        if former == rollout.image:
            raise _nothing_to_do()
        # One that was done is called off too, or new relays would go on getting its image.
        _end(rollout, State.CANCELLED)
        record(actor=actor, event="rollout.rolled_back", target=rollout, to=former)
        back = _create(
            image=former, percent_per_hour=ROLL_BACK_PERCENT, state=State.RUNNING, paced_from=now(), actor=actor
        )
    ill = _lacking(former).filter(should_run(), _is_ill(), image=rollout.image, server__phase=Server.Phase.HEALTHY)
    for relay in list(ill):
        with transaction.atomic():
            RelayGroup.objects.select_for_update(no_key=True).get(pk=relay.group_id)
            _give(relay, former, is_judged=False)
    return back


def _image_before(rollout: Rollout) -> str:
    """What the fleet ran before: the image of the last roll-out that was finished by then, else the portal's own."""
    done = Rollout.objects.filter(state=State.DONE, pk__lt=rollout.pk).order_by("-pk")
    return done.values_list("image", flat=True).first() or settings.RELAY_IMAGE or image_name()


def _locked_open(rollout_id: int) -> Rollout:
    rollout = Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=rollout_id)
    if not rollout.is_open:
        raise PortalError(_("This roll-out has ended. Start another one."), code="rollout_ended", status=409)
    return rollout


def _end(rollout: Rollout, state: Rollout.State) -> None:
    rollout.state, rollout.ended_at = state, rollout.ended_at or now()
    rollout.save(update_fields=["state", "ended_at"])
    resolve_alert(Alert.Kind.ROLLOUT_STOPPED, subject=str(rollout.pk))


# --- the sweep ------------------------------------------------------------------------------------


def advance_rollout() -> Rollout | None:
    """Sweep: take the roll-out that is under way as far as it may go now; None when none is.

    Safe to call at any time, by several at once: every relay is given under the roll-out's lock, so that they share
    one pace. One that fails stops before it touches another relay.
    """
    moving = Rollout.objects.filter(state__in=MOVING).first()
    if moving is None:
        return None
    with transaction.atomic():
        rollout = Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=moving.pk)
        if rollout.state not in MOVING or _stop_if_failing(rollout):
            return rollout
        if rollout.state == State.CANARY:
            _choose_again_or_go_on(rollout)
        total = _fleet().filter(should_run(), server__isnull=False).count()
        due = _due(rollout, total)
    for relay_id, group_id in due:
        if not _take(rollout.pk, rollout.state, relay_id, group_id, total):
            break
    if rollout.state == State.RUNNING:
        _give_to_idle(rollout)
        _end_if_done(rollout.pk)
    rollout.refresh_from_db()
    return rollout


def _stop_if_failing(rollout: Rollout) -> bool:
    relay = _failing(rollout).select_related("server").first()
    if relay is None:
        return False
    has_started = relay.started_at is not None and relay.started_at >= relay.changed_at
    reason = relay.trouble_code or ("probes_fail" if has_started else "does_not_start")
    rollout.state, rollout.stopped_because = State.STOPPED, reason
    rollout.save(update_fields=["state", "stopped_because"])
    log.warning("rollout_stopped", rollout=rollout.pk, image=rollout.image, relay=relay.code, reason=reason)
    record(actor=None, event="rollout.stopped", target=rollout, reason=reason, relay=relay.code)
    raise_alert(
        Alert.Kind.ROLLOUT_STOPPED,
        severity=Alert.Severity.CRITICAL,
        subject=str(rollout.pk),
        image=rollout.image,
        reason=f"{why_stopped(rollout)} ({relay.code}, {relay.server})",
    )
    return True


def _choose_again_or_go_on(rollout: Rollout) -> None:
    """Leave the canary once it has shown that the image works, or if nothing runs that could show it."""
    tried = _judged(rollout)
    count = tried.count()
    if count:
        is_proven = count == tried.filter(_serves(), health__healthy_at__gte=F("started_at") + PROOF).count()
        if is_proven and not _ready(rollout).filter(server=rollout.canary).exists():
            _leave_canary(rollout)
    elif not _lacking(rollout.image).filter(should_run(), server__isnull=False).exists():
        _leave_canary(rollout)
    elif not _marked(rollout).exists() and not _possible_canaries(rollout.image).filter(pk=rollout.canary_id).exists():
        # Emptied, or lost before it was touched: another one.
        rollout.canary = _possible_canaries(rollout.image).first()
        rollout.save(update_fields=["canary"])


def _leave_canary(rollout: Rollout) -> None:
    rollout.state, rollout.paced_from, rollout.paced_done = State.RUNNING, now(), 0
    rollout.save(update_fields=["state", "paced_from", "paced_done"])
    record(actor=None, event="rollout.canary_passed", target=rollout)


def _due(rollout: Rollout, total: int) -> list[tuple[int, int]]:
    """Ids of the relays to take now, and of their groups: never two of one group."""
    ready = _ready(rollout)
    if rollout.state == State.CANARY:
        # One that was ill before would show nothing there.
        ready = ready.filter(server=rollout.canary, serves=True)
        at_once = ready.count()
    else:
        per_hour = total * rollout.percent_per_hour / 100
        at_once = max(1, math.ceil(per_hour / STEPS_AN_HOUR))
        if (surplus := allowance(rollout, total) - at_once) > 0:
            rollout.paced_done += surplus  # What could not be used in time is forfeited.
            rollout.save(update_fields=["paced_done"])
        at_once = min(at_once, allowance(rollout, total))
    if at_once < 1:
        return []
    due: dict[int, int] = {}
    for relay_id, group_id in ready.order_by("-serves", "pk").values_list("pk", "group_id").iterator():
        due.setdefault(group_id, relay_id)
        if len(due) == at_once:
            break
    return [(relay_id, group_id) for group_id, relay_id in due.items()]


def allowance(rollout: Rollout, total: int) -> int:
    """How many of `total` relays may be changed now: the hour's share so far, less those that were. Whole numbers."""
    if rollout.paced_from is None:
        return 0
    seconds = int((now() - rollout.paced_from).total_seconds())
    return max(1, seconds * rollout.percent_per_hour * total // 360_000) - rollout.paced_done


def _take(rollout_id: int, state: str, relay_id: int, group_id: int, total: int) -> bool:
    """Give the image to one relay, if that is still right. False when the roll-out may not go on now.

    A transaction of its own for each: several relays' rows are never locked together.
    """
    with transaction.atomic():
        rollout = Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=rollout_id)
        if rollout.state != state or (state == State.RUNNING and allowance(rollout, total) < 1):
            return False
        RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = _ready(rollout).filter(pk=relay_id).first()
        if relay is None:
            return True
        _give(relay, rollout.image, is_judged=relay.serves)
        if state == State.RUNNING:
            rollout.paced_done += 1
            rollout.save(update_fields=["paced_done"])
    return True


def _give(relay: Relay, image: str, *, is_judged: bool) -> None:
    """Name the image for the relay (its group is locked); the next pass over its server replaces the container."""
    Relay.objects.filter(pk=relay.pk, released_at=None).update(image=image, next_try_at=None, tries=0)
    if is_judged:
        relay_event(relay, RelayEvent.Kind.RESTARTED, image)
    wake_server(relay.server_id)


def _give_to_idle(rollout: Rollout) -> None:
    """Relays that do not run, or have no place, get the image when they start again: no pace is needed."""
    idle = _lacking(rollout.image).exclude(should_run(), server__isnull=False)
    with transaction.atomic():
        rows = idle.select_for_update(no_key=True, of=("self",), skip_locked=True).only("pk")[:IDLE_AT_ONCE]
        Relay.objects.filter(pk__in=[relay.pk for relay in rows]).update(image=rollout.image)


def _end_if_done(rollout_id: int) -> None:
    """Done when no relay lacks the image, and those that were given it work."""
    with transaction.atomic():
        rollout = Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=rollout_id)
        if rollout.state != State.RUNNING or _lacking(rollout.image).exists():
            return
        judged = _judged(rollout)
        if judged.count() == judged.filter(_serves(), started_at__gte=F("changed_at")).count():
            _end(rollout, State.DONE)
            record(actor=None, event="rollout.done", target=rollout)


# --- which relays ---------------------------------------------------------------------------------


def _fleet() -> QuerySet[Any]:
    """Live relays on Docker hosts, or without a place."""
    on_docker = Q(server=None) | Q(server__runtime=Server.Runtime.DOCKER)
    return Relay.objects.filter(on_docker, released_at=None).defer(*SECRETS)


def _lacking(image: str) -> QuerySet[Any]:
    lacking = _fleet().exclude(image=image)
    return lacking.exclude(image="") if fleet_image() == image else lacking


def _runs() -> Q:
    return Q(observed_state=Relay.Observed.RUNNING, observed_generation=F("generation"))


def _serves() -> Q:
    """Relays that run, and have answered a probe since they started."""
    answers = Q(health__status=RelayHealth.Status.HEALTHY, health__healthy_at__gte=F("started_at"))
    return _runs() & answers & Q(trouble_code="")


def _is_ill() -> Q:
    return ~Q(trouble_code="") | Q(health__status=RelayHealth.Status.UNHEALTHY)


def _changed_at(rollout: Rollout) -> Subquery:
    """When a relay that worked was given this roll-out's image, the last time."""
    marks = RelayEvent.objects.filter(
        relay=OuterRef("pk"),
        kind=RelayEvent.Kind.RESTARTED,
        detail=rollout.image,
        created_at__gte=rollout.started_at,
    )
    return Subquery(marks.order_by("-id").values("created_at")[:1])


def _marked(rollout: Rollout) -> QuerySet[Any]:
    """Relays that were given the image while they worked and should still run, with `changed_at`."""
    given = _fleet().filter(should_run(), image=rollout.image).annotate(changed_at=_changed_at(rollout))
    return given.filter(changed_at__isnull=False)


def _judged(rollout: Rollout) -> QuerySet[Any]:
    """Those of them that speak for or against the image: their host is healthy and they are not on the way elsewhere.

    After a resumption, those that did not work by then do not count any more.
    """
    judged = _marked(rollout).filter(server__phase=Server.Phase.HEALTHY).exclude(moves__state=Move.State.PLACED)
    if rollout.paced_from is None:
        return judged
    worked_then = Q(
        health__healthy_at__gte=F("changed_at"),
        health__healthy_at__gt=rollout.paced_from - PROBED_WITHIN,
    )
    return judged.filter(Q(changed_at__gte=rollout.paced_from) | worked_then)


def _failing(rollout: Rollout) -> QuerySet[Any]:
    set_up = RelayEvent.objects.filter(relay=OuterRef("pk"), kind__in=_SET_UP).order_by("-id")
    is_in_trouble = ~Q(trouble_code="") & ~Q(trouble_code__in=NOT_THE_IMAGE) & Q(trouble_since__gte=F("changed_at"))
    fails_probes = Q(
        health__status=RelayHealth.Status.UNHEALTHY,
        started_at__gte=F("changed_at"),
        health__checked_at__gte=F("started_at") + SETTLING,
    )
    has_not_started = ~_runs() & (Q(started_at=None) | Q(started_at__lt=F("changed_at")))
    is_late = Q(set_up_at__lt=now() - START_PATIENCE) & has_not_started
    judged = _judged(rollout).annotate(set_up_at=Subquery(set_up.values("created_at")[:1]))
    return judged.filter(is_in_trouble | fails_probes | is_late).order_by("pk")


def _ready(rollout: Rollout) -> QuerySet[Any]:
    """Relays that may be given the image now, with `serves`: on healthy hosts, and without leaving anybody with none.

    The other relay of a map must serve, and one that has just been changed must have shown that it does. A relay that
    is ill has nothing to lose; one that is just starting is left to it.
    """
    serves = Case(When(_serves(), then=Value(True)), default=Value(False))
    siblings = Relay.objects.filter(group=OuterRef("group"), released_at=None, wanted=Wanted.RUNNING)
    siblings = siblings.exclude(pk=OuterRef("pk"))
    changing = (
        siblings.filter(image=rollout.image)
        .annotate(serves=serves, changed_at=_changed_at(rollout))
        .filter(Q(serves=False) | Q(started_at__lt=F("changed_at")), changed_at__isnull=False)
    )
    leaves_one = ~Exists(siblings) | Exists(siblings.filter(_serves()))
    return (
        _lacking(rollout.image)
        .filter(should_run(), server__phase=Server.Phase.HEALTHY)
        .exclude(moves__state=Move.State.PLACED)
        .annotate(serves=serves)
        .filter(Q(Q(serves=True), leaves_one) | _is_ill())
        .exclude(Exists(changing))
    )


# --- how far it is --------------------------------------------------------------------------------


@dataclass
class ServerProgress:
    """One server's relays: how many have the image, and what the others run. `server` None: without a place."""

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
    present = fleet_image()
    counted = _fleet().values_list("server", "server__name", "image", "health__version").annotate(Count("pk"))
    servers: dict[int | None, ServerProgress] = {}
    for server_id, name, image, version, count in counted.order_by("server__name", "image", "health__version"):
        one = servers.setdefault(server_id, ServerProgress(server_id, name or ""))
        image = image or present
        one.total += count
        one.done += count if image == rollout.image else 0
        one.images[image] = one.images.get(image, 0) + count
        if version:
            one.versions[version] = one.versions.get(version, 0) + count
    rows = list(servers.values())
    return Progress(sum(row.done for row in rows), sum(row.total for row in rows), rows)


def why_stopped(rollout: Rollout) -> str:
    """In the reader's words; "" unless it is stopped."""
    code = rollout.stopped_because
    return str(STOPPED[code]) if code in STOPPED else trouble(code)
