"""What can be bought and for how much: prices of plans, traffic packs, coupons."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derp_portal.lib import money
from derp_portal.lib.clock import now
from derp_portal.lib.wording import local
from serials.models import Plan

CURRENCIES = [
    ("CNY", _("Chinese yuan")),
    ("USD", _("US dollar")),
    ("EUR", _("Euro")),
    ("HKD", _("Hong Kong dollar")),
    ("JPY", _("Japanese yen")),
]
MOST_MINOR_UNITS = 10**11
COUPON_CODE = RegexValidator(r"^[A-Z0-9][A-Z0-9_-]{2,39}$", _("3 to 40 capitals, digits, dashes and underscores."))


class CurrencyField(models.CharField[str, str]):
    """One of the currencies the shop takes, by its ISO 4217 code."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        options = {"max_length": 3, "choices": CURRENCIES, "default": "CNY", "verbose_name": _("currency")} | kwargs
        super().__init__(*args, **options)  # type: ignore[arg-type]


class AmountField(models.BigIntegerField[Any, Any]):
    """Money in minor units of the row's currency (fen, cents), never below zero."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        limits = [MinValueValidator(0), MaxValueValidator(MOST_MINOR_UNITS)]
        super().__init__(*args, **({"validators": limits} | kwargs))  # type: ignore[arg-type]


class Price(models.Model):
    """What one serial of a plan costs, from when until when. Orders keep a copy: changing it changes no order."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="prices", verbose_name=_("plan"))
    currency = CurrencyField()
    amount = AmountField(_("price"), help_text=_("In the smallest unit: 1990 is ¥19.90."))
    sale_amount = AmountField(_("sale price"), null=True, blank=True)
    sale_from = models.DateTimeField(_("sale from"), null=True, blank=True)
    sale_until = models.DateTimeField(_("sale until"), null=True, blank=True)
    valid_from = models.DateTimeField(
        _("valid from"), null=True, blank=True, help_text=_("Of several valid prices the one that began last counts.")
    )
    valid_until = models.DateTimeField(_("valid until"), null=True, blank=True)
    per_user_limit = models.PositiveIntegerField(
        _("most per person"),
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text=_("How many serials of the plan one account may buy in all; empty = no limit."),
    )
    is_trial = models.BooleanField(
        _("trial"), default=False, help_text=_("Once per person, for themselves; may cost nothing.")
    )
    is_active = models.BooleanField(_("on sale"), default=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "prices"
        ordering = ["plan", "currency", "-id"]
        verbose_name = _("price")
        verbose_name_plural = _("prices")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="price_is_not_negative"),
            models.CheckConstraint(
                condition=Q(sale_amount=None) | Q(sale_amount__gte=0, sale_amount__lte=F("amount")),
                name="sale_price_is_not_higher",
                violation_error_message=_("The sale price must not be higher than the price."),
            ),
            models.CheckConstraint(
                condition=Q(is_trial=True) | Q(amount__gt=0) & (Q(sale_amount=None) | Q(sale_amount__gt=0)),
                name="only_trials_cost_nothing",
                violation_error_message=_("Only a trial may cost nothing."),
            ),
        ]
        indexes = [models.Index(fields=["plan", "currency"], condition=Q(is_active=True), name="prices_on_sale")]

    def __str__(self) -> str:
        return f"{self.plan} · {money.for_people(self.amount, self.currency)}"

    def is_on_sale(self, moment: datetime | None = None) -> bool:
        """Whether the sale price holds at `moment`, which is the present when not given."""
        moment = moment or now()
        began = self.sale_from is None or self.sale_from <= moment
        return self.sale_amount is not None and began and (self.sale_until is None or moment < self.sale_until)

    def unit_amount(self, moment: datetime | None = None) -> int:
        """What one costs at `moment`, in minor units."""
        return int(self.sale_amount if self.is_on_sale(moment) else self.amount)


class WholesalePrice(models.Model):
    """What a reseller pays for each serial of a plan when they buy at least so many at once."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="wholesale_prices", verbose_name=_("plan"))
    level = models.CharField(
        _("level"), max_length=40, blank=True, help_text=_("Code of the level of resellers it is for; empty = all.")
    )
    currency = CurrencyField()
    from_quantity = models.PositiveIntegerField(
        pgettext_lazy("quantity", "from"), default=1, validators=[MinValueValidator(1)]
    )
    amount = AmountField(_("price of each"), help_text=_("In the smallest unit: 1990 is ¥19.90."))
    is_active = models.BooleanField(_("on sale"), default=True)

    class Meta:
        db_table = "wholesale_prices"
        ordering = ["plan", "currency", "from_quantity"]
        verbose_name = _("wholesale price")
        verbose_name_plural = _("wholesale prices")
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0),
                name="wholesale_price_is_positive",
                violation_error_message=_("A price must be more than nothing."),
            ),
            models.UniqueConstraint(
                fields=["plan", "level", "currency", "from_quantity"],
                condition=Q(is_active=True),
                name="one_wholesale_price_per_quantity",
                violation_error_message=_("There is a price from this quantity on already."),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.plan} · {self.from_quantity}+ · {money.for_people(self.amount, self.currency)}"


class BuyerTerms(models.Model):
    """What the rooms above have agreed on with a buyer: who brought them, and at which level they buy wholesale."""

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="buyer_terms", verbose_name=_("buyer")
    )
    brought_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("brought by"),
    )
    wholesale_level = models.CharField(_("level"), max_length=40, blank=True)

    class Meta:
        db_table = "buyer_terms"
        verbose_name = _("terms of a buyer")
        verbose_name_plural = _("terms of buyers")

    def __str__(self) -> str:
        return str(self.user)


class PackOffer(models.Model):
    """A traffic pack on sale: more bytes for the quota period that runs when it is paid."""

    code = models.SlugField(_("code"), max_length=40, unique=True)
    name = models.CharField(_("name"), max_length=80)
    name_zh = models.CharField(_("Chinese name"), max_length=80, blank=True)
    extra_bytes = models.PositiveBigIntegerField(_("bytes"), validators=[MinValueValidator(1)])
    currency = CurrencyField()
    amount = AmountField(_("price"), help_text=_("In the smallest unit: 1990 is ¥19.90."))
    is_active = models.BooleanField(_("on sale"), default=True)
    position = models.PositiveSmallIntegerField(_("position"), default=0)

    class Meta:
        db_table = "pack_offers"
        ordering = ["position", "extra_bytes", "id"]
        verbose_name = _("pack on sale")
        verbose_name_plural = _("packs on sale")
        constraints = [
            models.CheckConstraint(
                condition=Q(amount__gt=0),
                name="pack_costs_something",
                violation_error_message=_("A price must be more than nothing."),
            ),
            models.CheckConstraint(
                condition=Q(extra_bytes__gt=0),
                name="pack_offer_holds_something",
                violation_error_message=_("A traffic pack must hold at least one byte."),
            ),
        ]

    def __str__(self) -> str:
        return self.local_name

    @property
    def local_name(self) -> str:
        """The name in the reader's language."""
        return local(self.name, self.name_zh)


class Coupon(models.Model):
    """A code that makes an order cheaper. Its uses are rows (`CouponUse`): nothing counts them but them."""

    class Kind(models.TextChoices):
        PERCENT = "percent", _("percent")
        AMOUNT = "amount", _("amount")

    code = models.CharField(_("code"), max_length=40, unique=True, validators=[COUPON_CODE])
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices, default=Kind.PERCENT)
    percent = models.PositiveSmallIntegerField(
        _("percent off"), null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(100)]
    )
    amount = AmountField(_("amount off"), null=True, blank=True, help_text=_("In the smallest unit: 500 is ¥5.00."))
    currency = CurrencyField(help_text=_("Of the amount off; a percentage takes any."))
    plans = models.ManyToManyField(
        Plan, blank=True, related_name="+", verbose_name=_("plans"), help_text=_("None chosen = all of them.")
    )
    first_order_only = models.BooleanField(_("first order only"), default=False)
    total_limit = models.PositiveIntegerField(
        _("uses in all"), null=True, blank=True, validators=[MinValueValidator(1)], help_text=_("Empty = no limit.")
    )
    per_user_limit = models.PositiveIntegerField(
        _("uses per account"),
        null=True,
        blank=True,
        default=1,
        validators=[MinValueValidator(1)],
        help_text=_("Empty = no limit."),
    )
    valid_from = models.DateTimeField(_("valid from"), null=True, blank=True)
    valid_until = models.DateTimeField(_("valid until"), null=True, blank=True)
    is_active = models.BooleanField(_("active"), default=True)
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "coupons"
        ordering = ["-id"]
        verbose_name = _("coupon")
        verbose_name_plural = _("coupons")
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="percent", percent__gte=1, percent__lte=100, amount=None)
                | Q(kind="amount", amount__gte=1, percent=None),
                name="coupon_takes_percent_or_amount_off",
                violation_error_message=_("Give either a percentage or an amount, as the kind says."),
            ),
        ]

    def __str__(self) -> str:
        return self.code

    def clean(self) -> None:
        """Codes are kept in capitals: people type them as they like."""
        self.code = self.code.strip().upper()


class TrialUse(models.Model):
    """One person's one trial of a plan. Given back when its order is never paid."""

    plan = models.ForeignKey(Plan, on_delete=models.PROTECT, related_name="+", verbose_name=_("plan"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", verbose_name=_("user")
    )
    person = models.CharField(
        _("person"), max_length=254, help_text=_("Their e-mail address without tags and other disguises.")
    )
    order = models.OneToOneField(
        "billing.Order", on_delete=models.PROTECT, related_name="trial_use", verbose_name=_("order")
    )
    is_given_back = models.BooleanField(_("given back"), default=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "trial_uses"
        ordering = ["-id"]
        verbose_name = _("trial")
        verbose_name_plural = _("trials")
        constraints = [
            models.UniqueConstraint(
                fields=["plan", "person"], condition=Q(is_given_back=False), name="one_trial_per_person_and_plan"
            ),
            models.UniqueConstraint(
                fields=["plan", "user"], condition=Q(is_given_back=False), name="one_trial_per_user_and_plan"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.person}: {self.plan_id}"
