"""The lists resellers read."""

from __future__ import annotations

from typing import Any

import django_tables2 as tables
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from accounts.tables import TIME_CELL, ticket_url
from accounts.words import masked
from billing.models import SoldSerial
from derp_portal.lib import money
from fleet.models import AclLog
from resellers.models import Attribution, CommissionLine, Resale, Settlement
from resellers.selectors import STOCK_STATES, stock_state
from resellers.selectors.stock import in_words
from serials.codes import grouped
from serials.models import Lease
from serials.selectors import LeaseState, lease_card

NUMERIC = {"th": {"class": "numeric"}, "td": {"class": "numeric"}}
MONTH_CELL = '{{ value|date:"Y-m" }}'

LEASE_WORDS: dict[LeaseState, Promise] = {
    LeaseState.UP: _("running"),
    LeaseState.STARTING: _("starting"),
    LeaseState.TROUBLE: _("we are on it"),
    LeaseState.STOPPED: _("stopped"),
    LeaseState.ENDED: _("ended"),
}
LEASE_TONES = {
    LeaseState.UP: "ok",
    LeaseState.STARTING: "busy",
    LeaseState.TROUBLE: "warn",
    LeaseState.STOPPED: "off",
    LeaseState.ENDED: "off",
}
STOCK_TONES = {"unused": "info", "used": "ok", "over": "off", "expired": "warn", "back": "off"}
REFUSALS = dict(AclLog.Reason.choices)


def pill(tone: str, label: str | Promise) -> SafeString:
    """A state in an icon and a word."""
    return render_to_string("components/state_pill.html", {"tone": tone, "label": label})


class CustomerTable(tables.Table):
    """Who came by the reseller's link. Give it what each has earned: by user, then by currency."""

    user = tables.Column(verbose_name=_("Customer"), orderable=False)
    since = tables.TemplateColumn(TIME_CELL, verbose_name=_("Since"))
    paid_orders = tables.Column(verbose_name=_("Orders paid"), attrs=NUMERIC)
    earned = tables.Column(
        verbose_name=_("Commission earned"), empty_values=(), accessor="user_id", orderable=False, attrs=NUMERIC
    )

    class Meta:
        attrs = {"aria_label": _("Customers by your link")}
        empty_text = _("No customer found")
        order_by = "-since"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.amounts: dict[int, dict[str, int]] = {}

    def render_user(self, record: Attribution) -> str:
        """Masked: they are a customer of the portal too."""
        return masked(record.user.email)

    def render_earned(self, record: Attribution) -> str:
        """By currency."""
        return in_words(self.amounts.get(record.user_id, {}))


class SoldLeaseTable(tables.Table):
    """Leases that began with a serial of the reseller's: what one must know to help their owners."""

    user = tables.Column(verbose_name=_("Customer"), orderable=False)
    ends_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Lease ends"))
    state = tables.Column(verbose_name=_("Relay"), accessor="pk", orderable=False)
    refused_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("A device was turned away"))
    refused_why = tables.Column(verbose_name=_("Why"), orderable=False)

    class Meta:
        attrs = {"aria_label": _("Relays from your serial numbers")}
        empty_text = _("No lease of your customers began with a serial number of yours")
        order_by = "ends_at"

    def render_user(self, record: Lease) -> str:
        """See `CustomerTable.render_user`."""
        return masked(record.user.email)

    def render_state(self, record: Lease) -> SafeString:
        """In one word."""
        state = lease_card(record).state
        return pill(LEASE_TONES[state], LEASE_WORDS[state])

    def render_refused_why(self, value: str) -> str:
        """In words."""
        return str(REFUSALS.get(value, value))


class CommissionTable(tables.Table):
    """What orders earned, and what refunds took back."""

    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("When"))
    order = tables.Column(verbose_name=_("Order"), accessor="order__number")
    kind = tables.TemplateColumn(template_name="resellers/commission_kind.html", verbose_name=_("What"))
    base = tables.Column(verbose_name=_("Of"), orderable=False, attrs=NUMERIC)
    amount = tables.Column(verbose_name=_("Commission"), attrs=NUMERIC)
    due_on = tables.TemplateColumn('{{ value|date:"Y-m-d" }}', verbose_name=_("Held until"))
    settle_month = tables.TemplateColumn(MONTH_CELL, verbose_name=_("Settled with"))

    class Meta:
        attrs = {"aria_label": _("Commissions")}
        empty_text = _("No commission found")
        order_by = "-created_at"

    def render_order(self, record: CommissionLine) -> SafeString:
        """Its number and, masked, whose it is; the order itself is the customer's."""
        whose = masked(record.order.user.email) if record.order.user else "–"
        return format_html('<div><code>{}</code><div class="small muted">{}</div></div>', record.order.number, whose)

    def render_base(self, record: CommissionLine) -> str:
        """What was received or given back."""
        return money.for_people(record.base, record.currency)

    def render_amount(self, record: CommissionLine) -> str:
        """With its currency."""
        return money.for_people(record.amount, record.currency)


def settlement_url(record: Settlement) -> str:
    """The settlement's own page."""
    return reverse("reseller_settlement", args=[record.pk])


class SettlementTable(tables.Table):
    """One for each month that something came to."""

    month = tables.Column(verbose_name=_("Month"), linkify=settlement_url)
    amount = tables.Column(verbose_name=_("Of the month"), orderable=False, attrs=NUMERIC)
    carried_in = tables.Column(verbose_name=_("Carried in"), orderable=False, attrs=NUMERIC)
    payable = tables.Column(verbose_name=_("Payable"), orderable=False, attrs=NUMERIC)
    state = tables.TemplateColumn(template_name="resellers/settlement_state.html", verbose_name=_("State"))

    class Meta:
        attrs = {"aria_label": _("Settlements")}
        row_attrs = {"data-href": settlement_url}
        empty_text = _("No month has been settled yet")
        order_by = "-month"

    def render_month(self, record: Settlement) -> str:
        """The year and the month."""
        return date_format(record.month, "Y-m")

    def render_amount(self, record: Settlement) -> str:
        """The sum of its lines."""
        return money.for_people(record.amount, record.currency)

    def render_carried_in(self, record: Settlement) -> str:
        """From earlier settlements."""
        return money.for_people(record.carried_in, record.currency)

    def render_payable(self, record: Settlement) -> str:
        """Both together."""
        return money.for_people(record.payable, record.currency)


class StockTable(tables.Table):
    """Serials bought wholesale. The page's context says which can be given back (`recallable`)."""

    mark = tables.TemplateColumn(
        template_name="resellers/stock_mark.html", verbose_name="", orderable=False, empty_values=()
    )
    code = tables.Column(verbose_name=_("Serial number"), accessor="serial__code", orderable=False)
    plan = tables.Column(verbose_name=_("Plan"), accessor="serial__plan", order_by="serial__plan__position")
    state = tables.Column(verbose_name=_("State"), accessor="pk", orderable=False)
    order = tables.Column(
        verbose_name=_("Order"),
        accessor="line__order__number",
        order_by="line__order",
        linkify=lambda value: reverse("order", args=[value]),
    )
    amount = tables.Column(verbose_name=_("Cost"), accessor="cost", attrs=NUMERIC)
    resale = tables.TemplateColumn(
        template_name="resellers/stock_sale.html", verbose_name=_("Sold on for"), empty_values=(), orderable=False
    )

    class Meta:
        attrs = {"aria_label": _("Stock")}
        empty_text = _("No serial number found")

    def render_code(self, value: str) -> SafeString:
        """The code as it is printed: groups of four."""
        return format_html("<code>{}</code>", grouped(value))

    def render_state(self, record: SoldSerial) -> SafeString:
        """In an icon and a word."""
        state = stock_state(record)
        return pill(STOCK_TONES[state], STOCK_STATES[state])

    def render_amount(self, record: SoldSerial) -> str:
        """With its currency."""
        return money.for_people(record.cost, record.line.order.currency)


class SaleTable(tables.Table):
    """What serials were sold on for."""

    sold_on = tables.TemplateColumn('{{ value|date:"Y-m-d" }}', verbose_name=_("Sold on"))
    code = tables.Column(verbose_name=_("Serial number"), accessor="sold__serial__code", orderable=False)
    plan = tables.Column(verbose_name=_("Plan"), accessor="sold__serial__plan", order_by="sold__serial__plan__position")
    customer = tables.Column(verbose_name=_("Customer"))
    price = tables.Column(verbose_name=_("Sold for"), orderable=False, attrs=NUMERIC)
    cost = tables.Column(verbose_name=_("Cost"), accessor="sold__cost", orderable=False, attrs=NUMERIC)
    margin = tables.Column(verbose_name=_("Margin"), accessor="sold", orderable=False, empty_values=(), attrs=NUMERIC)
    edit = tables.TemplateColumn(
        template_name="resellers/sale_edit.html", verbose_name="", orderable=False, empty_values=()
    )

    class Meta:
        attrs = {"aria_label": _("Sales")}
        empty_text = _("No sale recorded yet")
        order_by = "-sold_on"

    def render_code(self, record: Resale) -> SafeString:
        """Its last group is enough to tell it from others."""
        return format_html("<code>…{}</code>", record.sold.serial.code[-4:])

    def render_price(self, record: Resale) -> str:
        """With its currency."""
        return money.for_people(record.price, record.currency)

    def render_cost(self, record: Resale) -> str:
        """What the reseller has paid, after what was given back."""
        return money.for_people(record.sold.cost, record.sold.line.order.currency)

    def render_margin(self, record: Resale) -> str:
        """Where both are of one currency, and the serial was not given back after all."""
        if record.sold.taken_back_at:
            return _now("given back")
        if record.currency != record.sold.line.order.currency:
            return "–"
        return money.for_people(record.price - record.sold.cost, record.currency)


class FirstLineTable(tables.Table):
    """Tickets that reached a reseller first. Customers are named in part only."""

    subject = tables.Column(verbose_name=_("Subject"), linkify=ticket_url)
    number = tables.TemplateColumn("<code>{{ value }}</code>", verbose_name=_("Number"))
    customer = tables.Column(verbose_name=_("Customer"), accessor="customer__email", orderable=False)
    last_message_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Last message"))
    state = tables.TemplateColumn(
        '{% include "resellers/ticket_turn.html" with ticket=record %}', verbose_name=_("State"), orderable=False
    )

    class Meta:
        attrs = {"aria_label": _("Tickets")}
        row_attrs = {"data-href": ticket_url}
        empty_text = _("No ticket found")

    def render_customer(self, value: str) -> str:
        """Enough to know them again."""
        return masked(value)
