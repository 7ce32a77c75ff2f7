"""The books: postings that are only ever added, figures made of them, and months that are closed."""

from __future__ import annotations

from datetime import date

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import clock, money
from derp_portal.lib.append_only import AppendOnly
from serials.models import Plan

from .catalogue import CurrencyField
from .channels import SalesChannel
from .orders import Order, OrderLine
from .payments import PaymentMethod, Refund, Transfer


class Account(models.TextChoices):
    """The chart of accounts."""

    CASH = "cash", _("money at gateways, banks and shops")
    CUSTOMER_FUNDS = "customer_funds", _("customers' money not yet counted")
    REFUNDS_DUE = "refunds_due", _("refunds to be sent")
    RESELLER_PAYABLES = "reseller_payables", _("owed to resellers")
    RESELLER_FUNDS = "reseller_funds", _("resellers' prepaid money")
    REVENUE = "revenue", _("revenue")
    WHOLESALE = "wholesale", _("wholesale")
    REFUNDS = "refunds", _("refunds")
    GATEWAY_FEES = "gateway_fees", _("fees of gateways and shops")
    COMMISSIONS = "commissions", _("commissions of resellers")


class Posting(AppendOnly):
    """So much from one account to another: debit and credit in one row, so that the books cannot be out of balance.

    `key` says what it is the posting of; the same key is posted once. A mistake is reversed, never edited.
    """

    key = models.CharField(_("key"), max_length=80, unique=True)
    debit = models.CharField(_("debit"), max_length=20, choices=Account.choices)
    credit = models.CharField(_("credit"), max_length=20, choices=Account.choices)
    amount = models.BigIntegerField(_("amount"))
    currency = CurrencyField()
    booked_day: models.DateField[date, date] = models.DateField(_("booked on"))
    booked_month: models.DateField[date, date] = models.DateField(_("month"), help_text=_("Its first day."))
    order = models.ForeignKey(
        Order, null=True, blank=True, on_delete=models.PROTECT, related_name="postings", verbose_name=_("order")
    )
    line = models.ForeignKey(
        OrderLine, null=True, blank=True, on_delete=models.PROTECT, related_name="postings", verbose_name=_("line")
    )
    transfer = models.ForeignKey(
        Transfer, null=True, blank=True, on_delete=models.PROTECT, related_name="postings", verbose_name=_("transfer")
    )
    refund = models.ForeignKey(
        Refund, null=True, blank=True, on_delete=models.PROTECT, related_name="postings", verbose_name=_("refund")
    )
    method = models.ForeignKey(
        PaymentMethod,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="postings",
        verbose_name=_("payment method"),
    )
    plan = models.ForeignKey(
        Plan, null=True, blank=True, on_delete=models.PROTECT, related_name="+", verbose_name=_("plan")
    )
    channel = models.ForeignKey(
        SalesChannel, null=True, blank=True, on_delete=models.PROTECT, related_name="+", verbose_name=_("outside shop")
    )
    reseller = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("reseller"),
    )
    reverses = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.PROTECT, related_name="reversals", verbose_name=_("reverses")
    )
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("by"),
    )
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "ledger"
        ordering = ["-id"]
        verbose_name = _("posting")
        verbose_name_plural = _("ledger")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="posting_is_of_something"),
            models.CheckConstraint(condition=~Q(debit=F("credit")), name="posting_moves_something"),
        ]
        indexes = [
            models.Index(fields=["booked_day", "debit", "credit"], name="ledger_by_day"),
            models.Index(fields=["booked_month"], name="ledger_by_month"),
        ]

    def __str__(self) -> str:
        return f"{self.key}: {money.to_text(self.amount, self.currency)} {self.currency}"


class DailyFigure(models.Model):
    """What one finished day brought for one plan, shop and reseller in one currency: a roll-up of the ledger.

    Written once for each day (`RolledDay`); the ledger is the truth, and the nightly check compares.
    """

    day: models.DateField[date, date] = models.DateField(_("day"))
    currency = CurrencyField()
    plan = models.ForeignKey(
        Plan, null=True, blank=True, on_delete=models.PROTECT, related_name="+", verbose_name=_("plan")
    )
    channel = models.ForeignKey(
        SalesChannel, null=True, blank=True, on_delete=models.PROTECT, related_name="+", verbose_name=_("outside shop")
    )
    reseller = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("reseller"),
    )
    revenue = models.BigIntegerField(_("revenue"), default=0)
    wholesale = models.BigIntegerField(_("wholesale"), default=0)
    refunds = models.BigIntegerField(_("refunds"), default=0)
    fees = models.BigIntegerField(_("fees"), default=0)
    orders = models.PositiveIntegerField(_("orders paid"), default=0)
    units = models.PositiveIntegerField(_("units sold"), default=0)
    renewals = models.PositiveIntegerField(_("renewals"), default=0)
    first_orders = models.PositiveIntegerField(_("first orders"), default=0)

    class Meta:
        db_table = "daily_figures"
        ordering = ["-day", "id"]
        verbose_name = _("figure of a day")
        verbose_name_plural = _("figures of days")
        indexes = [models.Index(fields=["day", "currency"], name="daily_figures_by_day")]

    def __str__(self) -> str:
        return f"{self.day} {self.currency}"


class RolledDay(models.Model):
    """A finished day whose figures have been written, with what is counted for the whole day only."""

    day: models.DateField[date, date] = models.DateField(_("day"), unique=True)
    placed = models.PositiveIntegerField(_("orders placed"), default=0)
    created_at = models.DateTimeField(_("written"), auto_now_add=True)

    class Meta:
        db_table = "rolled_days"
        ordering = ["-day"]
        verbose_name = _("rolled day")
        verbose_name_plural = _("rolled days")

    def __str__(self) -> str:
        return str(self.day)


class ClosedMonth(AppendOnly):
    """A month whose books are closed: its report as it was then, and nothing more is booked into it."""

    month: models.DateField[date, date] = models.DateField(_("month"), unique=True, help_text=_("Its first day."))
    report = models.JSONField(_("report"), default=dict)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("closed by"),
    )
    created_at = models.DateTimeField(_("closed"), default=clock.now)

    class Meta:
        db_table = "closed_months"
        ordering = ["-month"]
        verbose_name = _("closed month")
        verbose_name_plural = _("closed months")

    def __str__(self) -> str:
        return f"{self.month:%Y-%m}"
