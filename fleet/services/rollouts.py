"""Roll-outs: a new relay image goes to a canary server first, then to so many relays an hour, and stops when it fails.

A relay that gets the image keeps name, key, pin, address, port and generation; the next pass replaces its container.
One that was ill before gets the image last, and says nothing about it.
"""

from __future__ import annotations

import math
import re
from typing import Any

import structlog
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.engines import fleet_image
from fleet.models import Alert, Relay, RelayEvent, RelayGroup, Rollout, Server
from fleet.reconciler.desired import should_run
from fleet.runtimes.base import Rejected
from fleet.runtimes.image import image_name, stored_archive
from fleet.words import trouble

from . import rollout_relays as which
from .alerts import raise_alert, resolve_alert
from .events import relay_event
from .groups import restart_in_place
from .wake import wake_server

log = structlog.get_logger(__name__)

State = Rollout.State
MOVING = (State.CANARY, State.RUNNING)
STEPS_AN_HOUR = 12
"""An hour's share takes at least so many steps, also when the portal or the servers were away for hours."""
ROLL_BACK_PERCENT = 100
IDLE_AT_ONCE = 1000

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
        if fleet_image() == image and not which.lacking(image).exists():
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
    fit = which.possible_canaries(image)
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
        for relay in list(which.failing(rollout)):
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
        rollout = _locked(rollout_id)
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
        rollout = _locked(rollout_id)
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
    for relay in list(which.ill_with(rollout.image, wanted_image=former)):
        with transaction.atomic():
            RelayGroup.objects.select_for_update(no_key=True).get(pk=relay.group_id)
            _give(relay, former, is_judged=False)
    return back


def _image_before(rollout: Rollout) -> str:
    """What the fleet ran before: the image of the last roll-out that was finished by then, else the portal's own."""
    done = Rollout.objects.filter(state=State.DONE, pk__lt=rollout.pk).order_by("-pk")
    return done.values_list("image", flat=True).first() or settings.RELAY_IMAGE or image_name()


def _locked(rollout_id: int) -> Rollout:
    return Rollout.objects.select_for_update(no_key=True, of=("self",)).get(pk=rollout_id)


def _locked_open(rollout_id: int) -> Rollout:
    rollout = _locked(rollout_id)
    if not rollout.is_open:
        raise PortalError(_("This roll-out has ended. Start another one."), code="rollout_ended", status=409)
    return rollout


def _end(rollout: Rollout, state: Rollout.State) -> None:
    rollout.state, rollout.ended_at = state, rollout.ended_at or now()
    rollout.save(update_fields=["state", "ended_at"])
    resolve_alert(Alert.Kind.ROLLOUT_STOPPED, subject=str(rollout.pk))


def advance_rollout() -> Rollout | None:
    """Sweep: take the roll-out that is under way as far as it may go now; None when none is.

    Safe to call at any time, by several at once: every relay is given under the roll-out's lock, so that they share
    one pace. One that fails stops before it touches another relay.
    """
    moving = Rollout.objects.filter(state__in=MOVING).first()
    if moving is None:
        return None
    with transaction.atomic():
        rollout = _locked(moving.pk)
        if rollout.state not in MOVING or _stop_if_failing(rollout):
            return rollout
        if rollout.state == State.CANARY:
            _choose_again_or_go_on(rollout)
        total = which.count_running()
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
    relay = which.failing(rollout).select_related("server").first()
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
    if which.judged(rollout).exists():
        is_all_tried = not which.ready(rollout).filter(server=rollout.canary, serves=True).exists()
        if is_all_tried and which.is_canary_proven(rollout):
            _leave_canary(rollout)
    elif not which.lacking(rollout.image).filter(should_run(), server__isnull=False).exists():
        _leave_canary(rollout)
    elif not which.marked(rollout).exists() and not which.has_use_of_canary(rollout):
        rollout.canary = which.possible_canaries(rollout.image).first()
        rollout.save(update_fields=["canary"])


def _leave_canary(rollout: Rollout) -> None:
    rollout.state, rollout.paced_from, rollout.paced_done = State.RUNNING, now(), 0
    rollout.save(update_fields=["state", "paced_from", "paced_done"])
    record(actor=None, event="rollout.canary_passed", target=rollout)


def _due(rollout: Rollout, total: int) -> list[tuple[int, int]]:
    """Ids of the relays to take now, and of their groups: never two of one group."""
    ready = which.ready(rollout)
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
        rollout = _locked(rollout_id)
        if rollout.state != state or (state == State.RUNNING and allowance(rollout, total) < 1):
            return False
        RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        relay = which.ready(rollout).filter(pk=relay_id).first()
        if relay is None or (state == State.CANARY and not relay.serves):
            return True  # Something has happened to it since we looked.
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
    with transaction.atomic():
        rows = (
            which.idle(rollout.image)
            .select_for_update(no_key=True, of=("self",), skip_locked=True)
            .only("pk")[:IDLE_AT_ONCE]
        )
        Relay.objects.filter(pk__in=[relay.pk for relay in rows]).update(image=rollout.image)


def _end_if_done(rollout_id: int) -> None:
    """Done when no relay lacks the image, and those that were given it work."""
    with transaction.atomic():
        rollout = _locked(rollout_id)
        if rollout.state != State.RUNNING or which.lacking(rollout.image).exists():
            return
        if which.do_all_serve(rollout):
            _end(rollout, State.DONE)
            record(actor=None, event="rollout.done", target=rollout)


def why_stopped(rollout: Rollout) -> str:
    """In the reader's words; "" unless it is stopped."""
    code = rollout.stopped_because
    return str(STOPPED[code]) if code in STOPPED else trouble(code)
