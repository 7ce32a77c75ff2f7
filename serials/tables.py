"""The lists customers read about serials and terms."""

from __future__ import annotations

from typing import Any

import django_tables2 as tables
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from accounts.tables import TIME_CELL
from serials.codes import grouped
from serials.models import LeaseTerm

NUMERIC = {"th": {"class": "numeric"}, "td": {"class": "numeric"}}


class SerialTable(tables.Table):
    """The serials a customer has redeemed."""

    code = tables.Column(verbose_name=_("Serial number"))
    plan = tables.Column(verbose_name=_("Plan"), order_by="plan__position")
    duration_days = tables.Column(verbose_name=_("Days"), attrs=NUMERIC)
    used_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Redeemed"))
    expires_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Its days end"))
    status = tables.TemplateColumn(template_name="serials/serial_state.html", verbose_name=_("Status"))
    lease = tables.Column(
        verbose_name=_("Lease"),
        accessor="term__lease",
        order_by="term__lease__name",
        linkify=lambda value: lease_url(value.pk),
    )

    class Meta:
        attrs = {"aria_label": _("Serial numbers")}
        empty_text = _("No serial number found")
        order_by = "-used_at"

    def render_code(self, value: str) -> SafeString:
        """The code as it is printed: groups of four."""
        return format_html("<code>{}</code>", grouped(value))


class TermTable(tables.Table):
    """The terms of one lease or of all."""

    lease = tables.Column(verbose_name=_("Lease"), order_by="lease__name", linkify=lambda value: lease_url(value.pk))
    plan = tables.Column(verbose_name=_("Plan"), order_by="plan__position")
    source = tables.Column(verbose_name=_("Granted by"))
    starts_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("From"))
    ends_at = tables.TemplateColumn(template_name="serials/term_end.html", verbose_name=_("To"))
    state = tables.TemplateColumn(template_name="serials/term_state.html", verbose_name=_("State"))

    class Meta:
        attrs = {"aria_label": _("Terms")}
        empty_text = _("No term found")
        order_by = "-starts_at"

    def render_source(self, record: LeaseTerm, value: Any) -> SafeString | str:
        """What granted the days; a serial by its last group, enough to tell it from others."""
        if record.serial is None:
            return str(value)
        return format_html("<span>{} <code>…{}</code></span>", value, record.serial.code[-4:])


def lease_url(lease_id: int) -> str:
    """The lease's own page."""
    return reverse("lease", args=[lease_id])
