"""Telling operators of money that needs a person, through the fleet's alerts and their channels."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from fleet.models import Alert
from fleet.services.alert_words import teach
from fleet.services.alerts import raise_alert, resolve_alert

SEVERITIES = {
    "money_held": Alert.Severity.WARNING,
    "payment_unclear": Alert.Severity.WARNING,
    "order_stuck": Alert.Severity.CRITICAL,
    "refund_by_hand": Alert.Severity.WARNING,
    "payment_inquired": Alert.Severity.WARNING,
    "payment_disputed": Alert.Severity.CRITICAL,
    "dispute_lost": Alert.Severity.WARNING,
    "refund_bounced": Alert.Severity.CRITICAL,
    "low_stock": Alert.Severity.WARNING,
    "books_differ": Alert.Severity.CRITICAL,
}

teach(
    {
        "money_held": _("Money came in that does not fit order %(order)s (%(reference)s): a person must decide."),
        "payment_unclear": _(
            "The gateway does not say what became of payment %(reference)s of order %(order)s: look there yourself."
        ),
        "order_stuck": _("Order %(order)s is paid but cannot be delivered: a person must look."),
        "refund_by_hand": _("Refund %(refund)s of order %(order)s cannot be sent by the gateway: send it by hand."),
        "payment_inquired": _(
            "The bank of the payer of order %(order)s asks about %(amount)s (%(why)s): answer at the gateway in time."
        ),
        "payment_disputed": _(
            "The payer of order %(order)s has %(amount)s taken back by their bank (%(why)s): answer at the gateway in"
            " time."
        ),
        "dispute_lost": _(
            "The dispute about order %(order)s is lost (%(amount)s): refund the order, and say there that the money has"
            " gone back already."
        ),
        "refund_bounced": _(
            "Refund %(refund)s of order %(order)s (%(amount)s) did not arrive (%(why)s): send the money another way."
        ),
        "low_stock": _("Shop %(shop)s has %(count)s serials of %(plan)s left."),
        "books_differ": _("The check of the books found %(count)s differences: %(first)s"),
    }
)


def tell_staff(topic: str, *, subject: str, **params: Any) -> None:
    """Raise an alert about it, unless one is open."""
    raise_alert(Alert.Kind.PORTAL, severity=SEVERITIES[topic], subject=f"{topic}:{subject}"[:80], topic=topic, **params)


def told_staff_is_over(topic: str, *, subject: str) -> None:
    """What the alert was about is seen to. Saying so when there is none is fine."""
    resolve_alert(Alert.Kind.PORTAL, subject=f"{topic}:{subject}"[:80])
