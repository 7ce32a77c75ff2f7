"""Amounts as people read them."""

from __future__ import annotations

from django.utils.formats import number_format
from django.utils.translation import gettext as _

MEGABYTE = 1000**2
GIGABYTE = 1000**3
MEGABIT = 1000**2 / 8


def data_amount(count: int | None) -> str:
    """A number of bytes as it is sold and read, rounded to tenths: "0 GB", "340 kB", "61.5 MB", "1,200 GB"."""
    count = count or 0
    if not count or count >= 0.9995 * GIGABYTE:
        return _("%(amount)s GB") % {"amount": _tenths(count / GIGABYTE)}
    if count >= 0.9995 * MEGABYTE:
        return _("%(amount)s MB") % {"amount": _tenths(count / MEGABYTE)}
    return _("%(amount)s kB") % {"amount": number_format(max(round(count / 1000), 1))}


def _tenths(amount: float) -> str:
    # Formatting alone would cut off.
    amount = round(amount, 1)
    return number_format(amount, 0 if amount.is_integer() else 1, force_grouping=True)


def megabits(bytes_per_second: int | None) -> str:
    """A speed in bytes per second as Mbit/s, as lines are sold."""
    return _("%(amount)s Mbit/s") % {"amount": number_format((bytes_per_second or 0) / MEGABIT, 0)}
