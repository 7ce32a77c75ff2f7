"""Stopping groups that have used up their quota, starting them again by themselves, and telling their owners."""

from __future__ import annotations

from functools import partial

from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import notify, record
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Meter, QuotaPeriod, RelayGroup, TrafficPack, UserLimit, Wanted

from .groups import OVER_QUOTA, want
from .quotas import Usage, present_periods, usage_of

SWEEP_LIMIT = 500


def judge_group(group_id: int) -> Usage | None:
    """Stop the group if it has used up its quota, start it if that was why it stood; tell its owner. None = released.

    Safe at any time, by any number of workers.
    """
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        QuotaPeriod.objects.filter(group=group, is_due=True).update(is_due=False)
        if group.released_at:
            return None
        usage = usage_of([group])[group.pk]
        if usage.is_over and group.wanted == Wanted.RUNNING:
            want(group, Wanted.STOPPED, OVER_QUOTA)
            record(actor=None, event="group.over_quota", target=group, used=usage.used, limit=usage.limit)
        elif not usage.is_over and group.wanted_reason == OVER_QUOTA:
            want(group, Wanted.RUNNING, "")
            record(actor=None, event="group.within_quota", target=group, used=usage.used, limit=usage.limit)
        _give_notice(group, usage)
    return usage


def _give_notice(group: RelayGroup, usage: Usage) -> None:
    """Once for each threshold; a pack that brings the group below one arms it again."""
    period = usage.period
    reached = usage.reached
    if reached == period.noticed_percent:
        return
    if reached > period.noticed_percent:
        notify(
            kind="quota",
            dedup_key=f"quota:{period.pk}:{usage.limit}:{reached}",
            user=group.owner,
            context={"group": group, "usage": usage, "reached": reached},
            button_url="/traffic/",
        )
    period.noticed_percent = reached
    period.save(update_fields=["noticed_percent"])


def keep_quotas() -> int:
    """Judge every group that crossed a threshold or stands for its quota. Returns how many were looked at."""
    due = set(QuotaPeriod.objects.filter(is_due=True).values_list("group_id", flat=True)[:SWEEP_LIMIT])
    standing = RelayGroup.objects.filter(over_quota_since__isnull=False, released_at=None)
    due.update(standing.values_list("id", flat=True))
    for group_id in due:
        judge_group(group_id)
    return len(due)


def add_pack(*, group_id: int, extra_bytes: int, key: str, note: str = "", actor: User | None) -> TrafficPack:
    """Let the group use so much more in its present period; it runs again at once if it stood for its quota.

    The same `key` adds once and gives back the first pack. Raises PortalError `released`, `invalid_pack`,
    `no_limit` where there is nothing to add to.
    """
    if extra_bytes <= 0:
        raise PortalError(_("A traffic pack must hold at least one byte."), code="invalid_pack")
    with transaction.atomic():
        group = RelayGroup.objects.select_for_update(no_key=True).get(pk=group_id)
        known = TrafficPack.objects.filter(key=key).first()
        if known:
            return _same(known, group_id)
        if group.released_at:
            raise PortalError(_("Its relays have been released."), code="released", status=409)
        if usage_of([group])[group.pk].limit is None:
            raise PortalError(_("Its traffic is not limited."), code="no_limit", status=409)
        try:
            with transaction.atomic():
                pack = TrafficPack.objects.create(
                    group=group,
                    period=present_periods([group])[group.pk],
                    extra_bytes=extra_bytes,
                    key=key,
                    note=note,
                    actor=actor,
                )
        except IntegrityError:
            return _same(TrafficPack.objects.get(key=key), group_id)
        record(actor=actor, event="group.pack_added", target=group, extra_bytes=extra_bytes, note=note)
        judge_group(group_id)
    return pack


def _same(pack: TrafficPack, group_id: int) -> TrafficPack:
    if pack.group_id != group_id:
        raise PortalError(_("That key belongs to another pack."), code="key_taken", status=409)
    return pack


def limit_user(*, user_id: int, quota_bytes: int | None, note: str = "", actor: User) -> UserLimit:
    """From now on this quota stands for each of the user's groups, whatever their plans say (None = no limit)."""
    with transaction.atomic():
        owner = User.objects.select_for_update(no_key=True).get(pk=user_id)
        limit, _is_new = UserLimit.objects.update_or_create(
            owner=owner, defaults={"quota_bytes": quota_bytes, "note": note}
        )
        record(actor=actor, event="user.traffic_limited", target=owner, quota_bytes=quota_bytes, note=note)
        transaction.on_commit(partial(_judge_all_of, user_id))
    return limit


def unlimit_user(*, user_id: int, actor: User) -> None:
    """The quotas of the user's plans hold again. Once more is fine."""
    with transaction.atomic():
        owner = User.objects.select_for_update(no_key=True).get(pk=user_id)
        if UserLimit.objects.filter(owner=owner).delete()[0]:
            record(actor=actor, event="user.traffic_limit_removed", target=owner)
        transaction.on_commit(partial(_judge_all_of, user_id))


def _judge_all_of(user_id: int) -> None:
    # After the commit, the caller's own included (the admin holds one around a whole request), and one row at a time:
    # whoever books locks several groups and then meters, in an order that would not be kept here.
    # How soon a relay is read again follows from what its group may still use.
    meters = Meter.objects.filter(relay__group__owner=user_id, next_read_at__gt=now())
    for meter_id in meters.values_list("id", flat=True):
        Meter.objects.filter(pk=meter_id, next_read_at__gt=now()).update(next_read_at=now())
    for group_id in RelayGroup.objects.filter(owner=user_id, released_at=None).values_list("id", flat=True):
        judge_group(group_id)
