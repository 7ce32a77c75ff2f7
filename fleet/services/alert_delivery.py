"""Alerts on their way to people: queued with the alert, grouped into one message a channel, tried until they arrive.

An operator with a channel in use is told there; one without gets mail. A delivery is claimed by moving its
`not_before` behind the end of the claim: that moment, to the microsecond, names the claim.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from urllib.parse import unquote

import apprise
import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import Count, F, Q, QuerySet
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.models import User
from accounts.services import language_of, notify, record
from accounts.services.failures import without_secrets
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from fleet.models import Alert, AlertChannel, AlertDelivery, Silence
from fleet.monitoring.retention import delete_in_batches

from .alert_words import undelivered, wording

log = structlog.get_logger(__name__)

GROUPING = timedelta(seconds=10)
STORM_GROUPING = timedelta(seconds=60)
STORM = 5
"""So many alerts for one channel within five minutes are a storm: they wait for each other longer."""
STORM_SPAN = timedelta(minutes=5)

MAX_TRIES = 6
FIRST_PAUSE = timedelta(seconds=30)
SEND_SECONDS = 20
# Longer than a sender can take: an elapsed claim means that it died.
CLAIM = timedelta(minutes=2)
WORTH_TELLING = timedelta(days=1)
"""What could not be told for so long, a channel being off meanwhile, is not told any more."""
KEPT = timedelta(days=90)
LISTED = 20
"""So many alerts are written out in one message; of the others their number is."""

SEVERITIES = [str(severity) for severity in (Alert.Severity.INFO, Alert.Severity.WARNING, Alert.Severity.CRITICAL)]
LOOKS = dict(zip(SEVERITIES, ("info", "warning", "failure"), strict=True))

# These would speak to the portal's own machine or its desktop, not to a person.
LOCAL_SCHEMES = frozenset({"dbus", "gio", "glib", "gnome", "kde", "macosx", "qt", "syslog", "windows"})


def check_address(address: str) -> None:
    """Raises ValidationError unless it is one address that a message can be sent to. Sends nothing."""
    scheme = address.partition("://")[0].lower()
    if scheme in LOCAL_SCHEMES or apprise.Apprise.instantiate(address, asset=_asset()) is None:
        raise ValidationError(
            _("This is not an address that messages can be sent to. Look it up on the pages of Apprise."),
            code="invalid_address",
        )


def silences_now() -> list[Silence]:
    """Those in force."""
    moment = now()
    return list(Silence.objects.filter(starts_at__lte=moment, ends_at__gt=moment))


def is_silenced(alert: Alert, silences: Iterable[Silence]) -> bool:
    """Whether one of them keeps it from being told."""
    return any(
        silence.alert_type in ("", alert.alert_type) and silence.server_id in (None, alert.server_id)
        for silence in silences
    )


def queue_deliveries(alert: Alert) -> bool:
    """Have every operator told: by their channels, or by mail. False when a silence keeps it from them.

    Call it in the transaction that raised the alert; nothing is sent unless that commits. Once more is a reminder.
    """
    if is_silenced(alert, silences_now()):
        return False
    moment = now()
    alert.told_at = moment
    alert.save(update_fields=["told_at"])
    recent = Count("deliveries", filter=Q(deliveries__created_at__gt=moment - STORM_SPAN))
    channels = list(_usable().annotate(recent=recent))
    rank = SEVERITIES.index(alert.severity)
    AlertDelivery.objects.bulk_create(
        AlertDelivery(
            alert=alert,
            channel=channel,
            not_before=moment + (STORM_GROUPING if channel.recent >= STORM else GROUPING),
        )
        for channel in channels
        if SEVERITIES.index(channel.min_severity) <= rank
    )
    _mail(alert, moment, but_not={channel.owner_id for channel in channels})
    return True


def queue_end(alert: Alert) -> None:
    """Have the channels told that the alert is over which were told of it. Mail is for what wants to be seen to."""
    told = _usable().filter(deliveries__alert=alert, deliveries__sent_at__isnull=False).distinct()
    AlertDelivery.objects.bulk_create(
        AlertDelivery(alert=alert, channel=channel, not_before=now() + GROUPING) for channel in told
    )


def forget_old_deliveries() -> None:
    """Sweep: what was sent, or given up, three months ago. The alerts themselves stay."""
    delete_in_batches(AlertDelivery.objects.filter(created_at__lt=now() - KEPT).order_by("created_at"))


def deliver_due() -> int:
    """Send what is due, one message a channel; the number of messages that arrived. Several may run at once."""
    due = AlertDelivery.objects.filter(_is_pending(), not_before__lte=now()).values("channel")
    channels = _usable().filter(pk__in=due).select_related("owner")
    return sum(_deliver(channel) for channel in list(channels))


def test_channel(*, channel_id: int, actor: User) -> None:
    """Send a greeting through the channel now, so that its owner sees whether it works.

    Raises AlertChannel.DoesNotExist, and PortalError (502) with what went wrong. Not for inside a transaction.
    """
    channel = AlertChannel.objects.select_related("owner").get(pk=channel_id)
    with translation.override(language_of(channel.owner)):
        title, body = _("Test"), _("This channel works: alerts of the portal will arrive here.")
    error = _send(channel, title=title, body=body, look="info")
    _note(channel, error)
    record(actor=actor, event="alertchannel.tested", target=channel, error=error)
    if error:
        said = gettext_lazy("The message could not be delivered: %(error)s")
        raise PortalError(said % {"error": undelivered(error)}, code="not_delivered", status=502)


def _usable() -> QuerySet[AlertChannel]:
    return AlertChannel.objects.filter(is_enabled=True, owner__is_active=True, owner__role=User.Role.ADMIN)


def _is_pending() -> Q:
    return Q(sent_at=None, tries__lt=MAX_TRIES, created_at__gt=now() - WORTH_TELLING)


def _mail(alert: Alert, moment: datetime, *, but_not: set[int]) -> None:
    readers = User.objects.filter(is_active=True, role=User.Role.ADMIN).exclude(email="").exclude(pk__in=but_not)
    for person in readers:
        with translation.override(language_of(person)):
            message = wording(alert)
        notify(
            kind="alert",
            dedup_key=f"alert:{alert.pk}:{person.pk}:{moment.timestamp():.6f}",
            user=person,
            context={"alert": alert, "message": message},
            button_url=f"/admin/fleet/alert/{alert.pk}/change/",
        )


def _deliver(channel: AlertChannel) -> bool:
    claim = _claim(channel)
    claimed = list(
        AlertDelivery.objects.filter(channel=channel, not_before=claim, sent_at=None).select_related("alert")
    )
    if not claimed:
        return False
    alerts = sorted(
        {delivery.alert_id: delivery.alert for delivery in claimed}.values(),
        key=lambda alert: (-SEVERITIES.index(alert.severity), alert.pk),
    )
    with translation.override(language_of(channel.owner)):
        title, body = _compose(alerts)
    look = "success" if all(alert.resolved for alert in alerts) else LOOKS[alerts[0].severity]
    error = _send(channel, title=title, body=body, look=look)
    for delivery in claimed:
        # Only our own claim: if it elapsed and somebody took over, their word counts.
        mine = AlertDelivery.objects.filter(pk=delivery.pk, not_before=claim, sent_at=None)
        if error:
            mine.update(error=error, not_before=now() + _pause(delivery.tries))
        else:
            mine.update(error="", sent_at=now())
    _note(channel, error)
    return not error


def _claim(channel: AlertChannel) -> datetime:
    """Take what is due, and with it what only waits to be grouped. One UPDATE decides who has which delivery."""
    claim = now() + CLAIM + timedelta(microseconds=random.randrange(1_000_000))
    wanted = Q(not_before__lte=now()) | Q(tries=0)
    AlertDelivery.objects.filter(_is_pending(), wanted, channel=channel).update(not_before=claim, tries=F("tries") + 1)
    return claim


def _compose(alerts: list[Alert]) -> tuple[str, str]:
    """The title and the text of one message about all of them, the worst first, in the present language."""
    first = alerts[0]
    if len(alerts) == 1:
        state = _("Over") if first.resolved else first.get_severity_display()
        title = f"[{state}] {first.get_alert_type_display()}"
    else:
        title = ngettext("%(count)s alert", "%(count)s alerts", len(alerts)) % {"count": len(alerts)}
    return title, "\n".join([*_lines(alerts), "", f"{settings.PUBLIC_URL.rstrip('/')}/admin/fleet/alert/"])


def _lines(alerts: list[Alert]) -> Iterator[str]:
    ended = _("over by now")
    for alert in alerts[:LISTED]:
        over = f" ({ended})" if alert.resolved else ""
        yield f"[{alert.get_severity_display()}] {wording(alert)}{over}"
    rest = len(alerts) - LISTED
    if rest > 0:
        yield ngettext("and %(count)s more", "and %(count)s more", rest) % {"count": rest}


def _send(channel: AlertChannel, *, title: str, body: str, look: str) -> str:
    """Send it now; "" when it arrived, else why not: a code for `undelivered`, or what was said, without secrets."""
    sender = apprise.Apprise(asset=_asset())
    if not sender.add(channel.address):
        return "invalid_address"
    result = sender.notify(
        body=body, title=title, notify_type=apprise.NotifyType(look), body_format="text", timeout=SEND_SECONDS
    )
    if result:
        return ""
    said = " ".join(entry.message for entry in result.logs()) or "not_accepted"
    error = _without(channel.address, said)[:200]
    log.warning("alert_not_delivered", channel=channel.pk, error=error)
    return error


def _asset() -> apprise.AppriseAsset:
    # A channel may lead anywhere its operator says, but no answer from there may lead on to somewhere else.
    return apprise.AppriseAsset(app_id="DERP portal", app_desc="", app_url=settings.PUBLIC_URL, http_redirects=False)


def _without(address: str, text: str) -> str:
    """`text` with every part of the address blotted out that could be a key."""
    for part in {*re.split(r"[/:@?&=#,;]+", address), *re.split(r"[/:@?&=#,;]+", unquote(address))}:
        if len(part) > 5:
            text = text.replace(part, "…")
    return without_secrets(text).replace("\x00", "")


def _note(channel: AlertChannel, error: str) -> None:
    rows = AlertChannel.objects.filter(pk=channel.pk)
    if error:
        rows.update(last_error=error)
    else:
        rows.update(last_error="", last_sent_at=now())


def _pause(tries: int) -> timedelta:
    """After that many attempts: doubling from 30 s, half of it by chance."""
    longest: timedelta = FIRST_PAUSE * int(2 ** max(tries - 1, 0))
    return longest * random.uniform(0.5, 1.0)
