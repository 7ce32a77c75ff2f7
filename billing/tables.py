"""The list customers read of their orders."""

from __future__ import annotations

import django_tables2 as tables
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from accounts.tables import TIME_CELL
from billing.models import Order
from billing.services.words import describe

NUMERIC = {"th": {"class": "numeric"}, "td": {"class": "numeric"}}
STATE_CELL = '{% include "billing/order_state.html" with order=record %}'


def order_url(record: Order) -> str:
    """The order's own page."""
    return reverse("order", args=[record.number])


class OrderTable(tables.Table):
    """A customer's orders."""

    number = tables.Column(verbose_name=_("Order number"), linkify=order_url)
    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Ordered"))
    what = tables.Column(verbose_name=_("What"), accessor="lines", orderable=False)
    total = tables.Column(verbose_name=_("Total"), attrs=NUMERIC)
    state = tables.TemplateColumn(STATE_CELL, verbose_name=_("State"))

    class Meta:
        attrs = {"aria_label": _("Orders")}
        row_attrs = {"data-href": order_url}
        empty_text = _("No order found")
        order_by = "-created_at"

    def render_number(self, value: str) -> SafeString:
        """The number, in letters that are told apart."""
        return format_html("<code>{}</code>", value)

    def render_what(self, record: Order) -> SafeString:
        """A line for each of the order's."""
        return format_html_join("", "<div>{}</div>", ((describe(line),) for line in record.lines.all()))

    def render_total(self, record: Order) -> str:
        """With its currency."""
        return record.total_text
