"""What alerts say."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from derp_portal.lib.units import data_amount
from fleet.models import Alert, Metric
from fleet.words import trouble

Kind = Alert.Kind

WORDS: dict[str, Promise | str] = {
    Kind.SERVER_LOST: _("Server %(server)s has not answered since %(since)s; its relays are being moved."),
    Kind.NO_ROOM: _("%(count)s relays find no place: add a server, or raise how many relays one may carry."),
    Kind.ROLLOUT_STOPPED: _("The roll-out of %(image)s has stopped: %(reason)s"),
    Kind.PROVIDER_RENEWAL: _("Server %(server)s must be renewed with %(provider)s by %(date)s."),
    Kind.ALLOWANCE: _("Server %(server)s has used %(percent)s %% of its monthly traffic; its relays move away."),
    Kind.FOREIGN_HOST: _("Server %(server)s cannot be used: %(reason)s"),
    Kind.CERTIFICATE_ENDS: _("The certificate for server %(server)s ends on %(date)s."),
    Kind.COUNTERS_DIFFER: _(
        "Server %(server)s: for %(count)s of its relays the traffic books are far from what the engine counted;"
        " for %(relay)s %(booked)s were booked while %(carried)s passed."
    ),
    Kind.UNKNOWN_KEYS: _("%(count)s unknown devices knocked at the doors of %(user)s within an hour."),
    Kind.MANY_SOURCES: _("A device of %(user)s connected from %(count)s addresses within an hour: %(node_key)s"),
    Kind.OPEN_RELAY: _("The relays of %(user)s are open, and %(count)s devices used them within an hour."),
    Kind.DOOR_ERRORS: _("The door could not answer %(count)s times within five minutes. The log says why."),
    Kind.METRIC: _("Server %(server)s, %(metric)s: reached %(value)s, threshold %(threshold)s (%(rule)s)."),
    Kind.MANUAL: "%(text)s",
}

UNDELIVERED: dict[str, Promise] = {
    "invalid_address": _("The address is not valid any more."),
    "not_accepted": _("It was not accepted."),
}

TOPICS: dict[str, Promise | str] = {}
"""What alerts of the kind `portal` say, by their parameter `topic`: the rooms above have taught it."""


def teach(words: dict[str, Promise | str]) -> None:
    """Let a room above say in its own words what it needs operators for; the fleet knows nothing of it."""
    TOPICS.update(words)


def wording(alert: Alert) -> str:
    """What the alert says, in the reader's language."""
    params = dict(alert.params)
    words = TOPICS.get(params.get("topic", "")) if alert.alert_type == Kind.PORTAL else WORDS.get(alert.alert_type)
    if "code" in params:
        params["reason"] = trouble(params["code"])
    if "metric" in params:
        params["metric"] = str(Metric(params["metric"]).label)
    for name in ("booked", "carried"):
        if name in params:
            params[name] = data_amount(int(params[name]))
    return str(words) % params if words else alert.message


def undelivered(error: str) -> str:
    """Why a message did not arrive, in the reader's language; what the service itself said is shown as it came."""
    return str(UNDELIVERED.get(error, error))
