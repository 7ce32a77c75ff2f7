"""Amounts as people read them."""

from __future__ import annotations

from django.utils.formats import number_format
from django.utils.translation import gettext as _

GIGABYTE = 1000**3
MEGABIT = 1000**2 / 8


def gigabytes(count: int | None) -> str:
    """A number of bytes in GB: whole ones plain, others with one decimal; a little is never nothing: "< 0.1 GB"."""
    whole, rest = divmod(count or 0, GIGABYTE)
    if not rest:
        return _("%(amount)s GB") % {"amount": number_format(whole, force_grouping=True)}
    amount = whole + rest / GIGABYTE
    if amount < 0.1:
        return _("< %(amount)s GB") % {"amount": number_format(0.1, 1)}
    return _("%(amount)s GB") % {"amount": number_format(amount, 1, force_grouping=True)}


def megabits(bytes_per_second: int | None) -> str:
    """A speed in bytes per second as Mbit/s, as lines are sold."""
    return _("%(amount)s Mbit/s") % {"amount": number_format((bytes_per_second or 0) / MEGABIT, 0)}
