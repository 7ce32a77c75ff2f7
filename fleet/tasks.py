"""Thin tasks: an id in, one service called, safe to run twice. The sweeps are the truth; the rest wakes them early."""

from __future__ import annotations

import random

import structlog
from celery import shared_task
from django.core.cache import cache

from fleet.acl.door_log import forget_old_answers, write_down
from fleet.acl.knocks import forget_old_knocks
from fleet.metering.cross_check import compare_counters as compare_with_engine
from fleet.metering.rounds import meter_due as read_due_meters
from fleet.models import Evacuation, Relay, RelayHealth, Server
from fleet.monitoring.measuring import measure_servers as measure_due_servers
from fleet.monitoring.probing import any_relay_answers, probe_relays, relays_due_for_a_probe
from fleet.monitoring.retention import forget_old_readings
from fleet.reconciler.loop import PassResult, reconcile
from fleet.reconciler.volumes import reap_volumes
from fleet.runtimes.base import RuntimeFailure
from fleet.selectors import groups_short_of_relays
from fleet.services.acl import close_what_has_learned
from fleet.services.alert_delivery import deliver_due as deliver_due_alerts
from fleet.services.alert_delivery import forget_old_deliveries
from fleet.services.alert_rules import watch_rules as watch_alert_rules
from fleet.services.authority import renew_client_certificate
from fleet.services.certificates import renew_certificates as renew_relays_certificates
from fleet.services.control_servers import sync_due
from fleet.services.door_watch import watch_doors as watch_every_door
from fleet.services.enrolment import look_at_server
from fleet.services.evacuations import carry_on, carry_on_all, leave_lost_servers, lose_server
from fleet.services.groups import ensure_relays
from fleet.services.hand_over import push_due
from fleet.services.phases import judge
from fleet.services.providers import count_allowances, leave_servers_near_their_allowance, remind_of_renewals
from fleet.services.quota_keeping import keep_quotas as judge_quotas
from fleet.services.rescue import rescue_relays
from fleet.services.rollouts import advance_rollout

log = structlog.get_logger(__name__)

FRESH_PROBE_TRIES = 8
LOOK_AGAIN_SECONDS = 2
EXAMINATION_SECONDS = 30


@shared_task
def reconcile_server(server_id: int) -> None:
    """One pass over one server; what was just started is probed at once, so that its owner sees it run.

    A server that is not well is left to `examine_suspect`, whose workers nobody else waits for.
    """
    server = Server.objects.filter(pk=server_id).first()
    if server is None:
        return
    if server.status == Server.Status.HEALTHY:
        _pass_over(server_id)
    else:
        send_examination(server_id)


def send_examination(server_id: int) -> None:
    """Have a server that is not well looked at, unless that is under way: a silent host takes long to give up on."""
    if cache.add(f"examine:{server_id}", True, EXAMINATION_SECONDS):
        # Spread a little, so that hosts behind one broken line are not all tried at the same instant.
        examine_suspect.apply_async((server_id,), countdown=random.random(), expires=EXAMINATION_SECONDS)


@shared_task
def examine_suspect(server_id: int) -> None:
    """One pass over a server that is not well, and what follows from it: it is well again, or lost for good."""
    try:
        if not Server.objects.filter(pk=server_id).exists():
            return
        result = _pass_over(server_id)
        if (
            result.claimed
            and not result.reachable
            and judge(server_id, has_answering_relay=any_relay_answers(server_id))
        ):
            lose_server(server_id)
    finally:
        cache.delete(f"examine:{server_id}")


@shared_task
def watch_suspects() -> None:
    """Sweep: look at servers that do not answer more often than at the others."""
    for server_id in Server.objects.filter(phase=Server.Phase.SUSPECT).values_list("id", flat=True):
        send_examination(server_id)


def _pass_over(server_id: int) -> PassResult:
    result = reconcile(server_id)
    if not result.claimed:
        # Somebody else's pass may have read the rows before ours was committed: look again shortly. Once is enough for
        # all who ask meanwhile, or the messages would pile up behind a slow host.
        if cache.add(f"reconcile-again:{server_id}", True, LOOK_AGAIN_SECONDS):
            reconcile_server.apply_async((server_id,), countdown=LOOK_AGAIN_SECONDS)
        return result
    for relay_id in result.started:
        probe_fresh.apply_async((relay_id,), countdown=0.2)
    return result


@shared_task
def reconcile_all() -> None:
    """Sweep: one pass for every server, each a task of its own so that a slow host delays no other."""
    for server_id in Server.objects.values_list("id", flat=True):
        reconcile_server.apply_async((server_id,), expires=15)


@shared_task
def probe_fresh(relay_id: int, tries: int = 0) -> None:
    """Probe a relay that has just started, again every half second until it is healthy or the sweep takes over.

    One that was ill before it was started anew is healthy with its second answer.
    """
    relay = Relay.objects.select_related("server", "port", "health").filter(pk=relay_id, port__isnull=False).first()
    if relay is None or not relay.is_running:
        return
    [result] = probe_relays([relay])
    is_well = RelayHealth.objects.filter(relay=relay, status=RelayHealth.Status.HEALTHY).exists()
    if not (result.healthy and is_well) and tries < FRESH_PROBE_TRIES:
        probe_fresh.apply_async((relay_id, tries + 1), countdown=0.5)


@shared_task
def probe_due() -> None:
    """Sweep: probe every running relay whose last probe is too old."""
    probe_relays(relays_due_for_a_probe(limit=500))


@shared_task
def carry_on_evacuation(evacuation_id: int) -> None:
    """Go on with one evacuation."""
    if Evacuation.objects.filter(pk=evacuation_id).exists():
        carry_on(evacuation_id)


@shared_task
def carry_on_evacuations() -> None:
    """Sweep: evacuations go on, and relays that find no place are counted."""
    carry_on_all()


@shared_task
def rescue() -> None:
    """Sweep: relays that do not work where they are get a fresh container, then another server."""
    rescue_relays()


@shared_task
def care_for_servers() -> None:
    """Sweep: what providers want of us: renewals that come near, allowances that run out, keys that end."""
    remind_of_renewals()
    count_allowances()
    leave_servers_near_their_allowance()
    renew_client_certificate()


@shared_task
def roll_out() -> None:
    """Sweep: the roll-out under way takes its next step."""
    advance_rollout()


@shared_task
def place_waiting() -> None:
    """Sweep: find places for relays that wait for one, and standbys for groups that lack theirs.

    Relays that ran on a server which was lost come before those that never ran.
    """
    leave_lost_servers()
    for group_id in groups_short_of_relays(limit=500):
        ensure_relays(group_id=group_id)


@shared_task
def look_at_servers() -> None:
    """Sweep: read hardware and engine versions again, and drop volumes that nobody owns."""
    for server in Server.objects.filter(status=Server.Status.HEALTHY):
        try:
            look_at_server(server_id=server.pk)
            reap_volumes(server)
        except RuntimeFailure as failure:
            log.warning("look_failed", server=server.name, code=failure.code)


@shared_task
def meter_due() -> None:
    """Sweep: read the counters of every relay whose next reading has come."""
    read_due_meters()


@shared_task
def compare_counters() -> None:
    """Sweep: have the books of every healthy server compared with its engine's counters."""
    for server_id in Server.objects.filter(status=Server.Status.HEALTHY).values_list("id", flat=True):
        compare_counters_of.apply_async((server_id,), expires=1800)


@shared_task
def compare_counters_of(server_id: int) -> None:
    """Compare the books of one server with its engine's counters."""
    if Server.objects.filter(pk=server_id).exists():
        compare_with_engine(server_id)


@shared_task
def keep_quotas() -> None:
    """Sweep: groups that crossed a threshold of their quota, or stand for it."""
    judge_quotas()


@shared_task
def watch_rules() -> None:
    """Sweep: figures past the thresholds of alert rules, and reminders of what nobody has seen to."""
    watch_alert_rules()


@shared_task
def write_door_log() -> None:
    """Sweep: what doors answered becomes rows."""
    write_down()


@shared_task
def close_learned() -> None:
    """Sweep: policies whose time to learn is over."""
    close_what_has_learned()


@shared_task
def watch_doors() -> None:
    """Sweep: what the last hour at the doors should tell operators."""
    watch_every_door()


@shared_task
def sync_devices() -> None:
    """Sweep: lists of devices follow their owners' control servers."""
    sync_due()


@shared_task
def push_maps() -> None:
    """Sweep: policy files follow the maps that were pushed into them."""
    push_due()


@shared_task
def renew_certificates() -> None:
    """Sweep: certificates of relays that end, and switches whose day has come."""
    renew_relays_certificates()


@shared_task
def deliver_alerts() -> None:
    """Sweep: alerts on their way to operators' channels."""
    deliver_due_alerts()


@shared_task
def measure_servers() -> None:
    """Sweep: CPU, memory, disk, load and network of every server."""
    measure_due_servers()


@shared_task
def forget_readings() -> None:
    """Sweep: readings become hours, hours become days, and what is too old goes; so do notes of what was delivered."""
    forget_old_readings()
    forget_old_deliveries()
    forget_old_answers()
    forget_old_knocks()
