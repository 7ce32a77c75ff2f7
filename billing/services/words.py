"""Amounts and lines of orders in the reader's language, for pages, mails and paper alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import User
from accounts.services import language_of
from billing.models import OrderLine, PaymentMethod
from billing.models.catalogue import MOST_MINOR_UNITS
from derp_portal.lib import money
from derp_portal.lib.units import data_amount
from derp_portal.lib.wording import local

PLAIN_NUMBER = re.compile(r"[0-9]{1,400}(\.[0-9]{1,400})?")


def amount_of(user: User | None, amount: int, currency: str) -> str:
    """An amount in the language in which the user is written to."""
    with translation.override(language_of(user)):
        return money.for_people(amount, currency)


def why_no_amount(text: str, currency: str, *, most: int = MOST_MINOR_UNITS) -> str:
    """What is wrong with what somebody typed as an amount, in the reader's language; with an example of the currency's
    own where it is no amount at all.
    """
    if is_above(text, currency, most):
        return _("At most %(most)s.") % {"most": money.for_people(most, currency)}
    example = money.to_text(1990 if money.exponent(currency) else 500, currency)
    return _("Write an amount such as %(example)s, without other signs.") % {"example": example}


def is_above(text: str, currency: str, most: int) -> bool:
    """Whether it is a plain number, and more than so many minor units: however many digits it has."""
    if not PLAIN_NUMBER.fullmatch(text.strip()):
        return False
    return Decimal(text.strip()) > money.to_decimal(most, currency)


def method_words(user: User | None, method: PaymentMethod) -> str:
    """The name of a way to pay, in the language in which the user is written to."""
    with translation.override(language_of(user)):
        return method.local_name


def line_words(user: User | None, lines: Sequence[OrderLine]) -> list[str]:
    """One line of text for each line of an order, in the language in which the user is written to."""
    with translation.override(language_of(user)):
        return [describe(line) for line in lines]


def describe(line: OrderLine) -> str:
    """What a line is, as it was ordered: "2 × 30 days (serial number to hand on)"."""
    return _("%(quantity)s × %(what)s (%(kind)s)") % {
        "quantity": line.quantity,
        "what": name_of(line),
        "kind": line.get_kind_display(),
    }


def name_of(line: OrderLine) -> str:
    """The name that the plan or pack had when it was ordered, in the reader's language."""
    kept = line.snapshot
    return local(kept.get("name", ""), kept.get("name_zh", "")) or str(line.plan or line.pack)


def what_it_gives(line: OrderLine) -> str:
    """What one of the line gives: days, or traffic."""
    if "extra_bytes" in line.snapshot:
        return data_amount(line.snapshot["extra_bytes"])
    if line.kind == OrderLine.Kind.TOP_UP:
        return _("for wholesale orders")
    days = line.snapshot.get("days", 0)
    return ngettext("%(count)d day", "%(count)d days", days) % {"count": days}
