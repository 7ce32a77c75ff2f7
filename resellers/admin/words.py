"""What the codes in commissions and suspicions mean, for the people who must decide."""

from __future__ import annotations

from collections.abc import Iterable

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from resellers.models import Reseller
from resellers.words import HIDDEN

SIGNALS: dict[str, Promise] = {
    "same_person": gettext_lazy("The e-mail addresses of customer and reseller are one person's."),
    "same_address": gettext_lazy("Customer and reseller came from the same IP address."),
    "same_payer": gettext_lazy("Customer and reseller have paid from the same account."),
    "same_device": gettext_lazy("Customer and reseller have signed up or logged in by the same browser."),
    "circle": gettext_lazy("The reseller is the customer's own customer: they refer each other."),
}
WHY: dict[str, Promise] = {
    "inactive": gettext_lazy("The reseller was not active."),
    "not_first": gettext_lazy("It was not the customer's first order, and only first orders earn at this level."),
    "no_rate": gettext_lazy("No rate held for what was bought."),
    "confirmed": gettext_lazy("Staff decided that it earns nothing."),
}


def signals_in_words(signals: Iterable[str]) -> str:
    """Why an order may be the reseller's own; the code itself where there is no word for it."""
    return " ".join(str(SIGNALS.get(code, code)) for code in signals)


def why_in_words(code: str) -> str:
    """Why an order earned nothing."""
    return str(WHY.get(code, code))


def percent(basis_points: int) -> str:
    """A rate for people: 1550 is "15.5 %"."""
    return f"{basis_points / 100:g} %"


def payout_of(reseller: Reseller, *, may_read: bool) -> str:
    """Where to pay; whoever pays nothing out sees only whether it is known."""
    if not reseller.payout_kind:
        return _("not said yet")
    kind = str(reseller.get_payout_kind_display())
    return f"{kind}: {reseller.payout_details or '–'}" if may_read else f"{kind}: {HIDDEN}"
