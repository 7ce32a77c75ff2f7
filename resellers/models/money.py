"""What resellers earn: lines that are only added, months that are run once, settlements."""

from __future__ import annotations

from datetime import date

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from billing.models import Order, Refund
from billing.models.catalogue import CurrencyField
from derp_portal.lib import clock, money
from derp_portal.lib.append_only import AppendOnly

from .people import Reseller


class CommissionLine(AppendOnly):
    """What one order earned one reseller, or a refund of it took back. `settle_month` never changes.

    `earned`: positive. `reversed`: negative, one for each refund; all of them for a whole refund add up to what was
    earned. `nothing`: the order was looked at and earns nothing, `why` says why.
    """

    class Kind(models.TextChoices):
        EARNED = "earned", _("earned")
        REVERSED = "reversed", _("taken back by a refund")
        NOTHING = "nothing", _("earned nothing")

    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices)
    reseller = models.ForeignKey(
        Reseller, on_delete=models.PROTECT, related_name="commission_lines", verbose_name=_("reseller")
    )
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="commission_lines", verbose_name=_("order"))
    refund = models.OneToOneField(
        Refund,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="commission_line",
        verbose_name=_("refund"),
    )
    base = models.BigIntegerField(_("of"), default=0, help_text=_("What was received or given back."))
    amount = models.BigIntegerField(_("commission"))
    currency = CurrencyField()
    why = models.CharField(_("why"), max_length=32, blank=True)
    rates = models.JSONField(_("rates"), default=list)
    due_on: models.DateField[date, date] = models.DateField(_("due on"))
    settle_month: models.DateField[date, date] = models.DateField(
        _("settled with"), help_text=_("The first day of the month whose run settles it.")
    )
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "commission_lines"
        ordering = ["-id"]
        verbose_name = _("commission")
        verbose_name_plural = _("commissions")
        constraints = [
            models.UniqueConstraint(
                fields=["order", "reseller"],
                condition=Q(kind__in=["earned", "nothing"]),
                name="one_commission_per_order_and_reseller",
            ),
            models.CheckConstraint(
                condition=Q(kind="earned", amount__gt=0, refund=None)
                | Q(kind="reversed", amount__lte=0, refund__isnull=False)
                | Q(kind="nothing", amount=0, refund=None),
                name="commission_has_the_sign_of_its_kind",
            ),
        ]
        indexes = [
            models.Index(
                fields=["settle_month", "reseller", "currency"], include=["amount"], name="commissions_by_month"
            ),
            models.Index(fields=["reseller", "-id"], name="commissions_of_reseller"),
        ]

    def __str__(self) -> str:
        return f"{self.order_id}: {money.to_text(self.amount, self.currency)} {self.currency}"


class Suspicion(models.Model):
    """An order whose commission a person must look at first: it may be the reseller's own, or go in a circle."""

    class State(models.TextChoices):
        OPEN = "open", _("a person must look")
        CLEARED = "cleared", _("it may earn")
        CONFIRMED = "confirmed", _("it earns nothing")

    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="suspicion", verbose_name=_("order"))
    reseller = models.ForeignKey(
        Reseller, on_delete=models.PROTECT, related_name="suspicions", verbose_name=_("reseller")
    )
    signals = models.JSONField(_("signals"), default=list)
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.OPEN)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("decided by"),
    )
    decided_at = models.DateTimeField(_("decided at"), null=True, blank=True)
    created_at = models.DateTimeField(_("noticed"), default=clock.now)

    class Meta:
        db_table = "suspicions"
        ordering = ["-id"]
        verbose_name = _("suspicion")
        verbose_name_plural = _("suspicions")
        indexes = [models.Index(fields=["-id"], condition=Q(state="open"), name="suspicions_open")]

    def __str__(self) -> str:
        return self.order.number


class CommissionBook(models.Model):
    """One row. Who adds commission lines or runs a month holds it: a month that is run gets no more lines."""

    run_until: models.DateField[date | None, date | None] = models.DateField(
        _("run until"), null=True, blank=True, help_text=_("The first day of the last month that was run.")
    )

    settled_until: models.DateField[date | None, date | None] = models.DateField(
        _("settled until"),
        null=True,
        blank=True,
        help_text=_(
            "The first day of the last month that was run to its end: running it again carries nothing into it."
        ),
    )

    class Meta:
        db_table = "commission_book"
        verbose_name = _("commission book")
        verbose_name_plural = _("commission book")

    def __str__(self) -> str:
        return str(self.run_until or "–")


class Settlement(models.Model):
    """What one month came to for one reseller in one currency."""

    class State(models.TextChoices):
        OPEN = "open", _("to be approved")
        APPROVED = "approved", pgettext_lazy("settlement", "to be paid")
        PAID = "paid", pgettext_lazy("settlement", "paid")
        REJECTED = "rejected", _("rejected; carried over")
        CARRIED = "carried", _("carried over")

    reseller = models.ForeignKey(
        Reseller, on_delete=models.PROTECT, related_name="settlements", verbose_name=_("reseller")
    )
    month: models.DateField[date, date] = models.DateField(_("month"), help_text=_("Its first day."))
    currency = CurrencyField()
    amount = models.BigIntegerField(_("of the month"), help_text=_("The sum of its commission lines."))
    carried_in = models.BigIntegerField(_("carried in"), default=0)
    payable = models.BigIntegerField(_("payable"))
    lines = models.PositiveIntegerField(_("lines"), default=0)
    state = models.CharField(_("state"), max_length=8, choices=State.choices)
    carried_to = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="carried_from",
        verbose_name=_("carried to"),
    )
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    rejected_at = models.DateTimeField(_("rejected at"), null=True, blank=True)
    payout_reference = models.CharField(_("paid by"), max_length=128, blank=True)
    approved_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("approved by"),
    )
    approved_at = models.DateTimeField(_("approved at"), null=True, blank=True)
    paid_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("paid out by"),
    )
    paid_at = models.DateTimeField(_("paid at"), null=True, blank=True)
    told_at = models.DateTimeField(_("statement sent"), null=True, blank=True)
    created_at = models.DateTimeField(_("made"), default=clock.now)

    class Meta:
        db_table = "settlements"
        ordering = ["-month", "-id"]
        verbose_name = _("settlement")
        verbose_name_plural = _("settlements")
        constraints = [
            models.UniqueConstraint(
                fields=["reseller", "month", "currency"], name="one_settlement_per_reseller_and_month"
            ),
            models.CheckConstraint(
                condition=Q(payable=models.F("amount") + models.F("carried_in")), name="settlement_adds_up"
            ),
            models.CheckConstraint(
                condition=~Q(state="rejected") | Q(rejected_at__isnull=False), name="rejected_settlements_say_when"
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["open", "approved", "paid"]) | Q(payable__gt=0),
                name="only_what_is_owed_is_paid",
            ),
        ]
        indexes = [
            models.Index(fields=["state", "-month"], name="settlements_by_state"),
            models.Index(fields=["id"], condition=Q(told_at=None), name="settlements_to_tell"),
            models.Index(
                fields=["reseller", "currency"],
                condition=Q(state__in=["carried", "rejected"], carried_to=None),
                name="settlements_to_carry",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.reseller} {self.month:%Y-%m}"
