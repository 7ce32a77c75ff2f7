"""Who resells: levels and their rates, resellers, what came by their links, whose customer is whose."""

from __future__ import annotations

from datetime import date, datetime

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from billing.models.catalogue import AmountField, CurrencyField
from derp_portal.lib import clock, money
from derp_portal.lib.append_only import AppendOnly
from derp_portal.lib.secrets import SecretTextField
from derp_portal.lib.wording import local
from serials.models import Lease, Plan

LINK_CODE = RegexValidator(r"^[a-z0-9][a-z0-9-]{2,31}$", _("3 to 32 small letters, digits and dashes."))


class Level(models.Model):
    """A programme that resellers are in: what is paid for, how much by plan, and when."""

    code = models.SlugField(_("code"), max_length=40, unique=True)
    name = models.CharField(_("name"), max_length=80)
    name_zh = models.CharField(_("Chinese name"), max_length=80, blank=True)
    first_order_only = models.BooleanField(
        _("first order only"), default=False, help_text=_("Else every order of a customer earns.")
    )
    hold_days = models.PositiveSmallIntegerField(
        _("held for days"), default=14, help_text=_("Commission is due so many days after the order was paid.")
    )
    cookie_days = models.PositiveSmallIntegerField(
        _("link remembered for days"), default=30, validators=[MinValueValidator(1), MaxValueValidator(400)]
    )
    recall_days = models.PositiveSmallIntegerField(
        _("recall within days"),
        default=14,
        help_text=_("For so long wholesale serials that nobody has redeemed can be given back; 0 = never."),
    )
    is_default = models.BooleanField(_("for new resellers"), default=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "reseller_levels"
        ordering = ["name", "id"]
        verbose_name = _("level of resellers")
        verbose_name_plural = _("levels of resellers")
        constraints = [
            models.UniqueConstraint(fields=["is_default"], condition=Q(is_default=True), name="one_default_level")
        ]

    def __str__(self) -> str:
        return local(self.name, self.name_zh)

    @property
    def smallest_payouts(self) -> str:
        """In words, "" where any amount is paid: "¥100.00 · US$15.00"."""
        least = [one for one in self.payout_minimums.all() if one.amount]
        return " · ".join(money.for_people(one.amount, one.currency) for one in least)


class PayoutMinimum(models.Model):
    """The least that is paid out at a level in one currency; less is carried over. Without a row any amount is paid."""

    level = models.ForeignKey(Level, on_delete=models.CASCADE, related_name="payout_minimums", verbose_name=_("level"))
    currency = CurrencyField()
    amount = AmountField(_("smallest payout"), help_text=_("Less is carried into the next month."))

    class Meta:
        db_table = "payout_minimums"
        ordering = ["level", "currency"]
        verbose_name = _("smallest payout")
        verbose_name_plural = _("smallest payouts")
        constraints = [
            models.UniqueConstraint(
                fields=["level", "currency"],
                name="one_payout_minimum_per_level_and_currency",
                violation_error_message=_("There is a smallest payout of this currency already."),
            )
        ]

    def __str__(self) -> str:
        return f"{self.level} · {money.for_people(self.amount, self.currency)}"


class Rate(models.Model):
    """What a level earns of a plan's price, from when until when. The one that began last counts."""

    level = models.ForeignKey(Level, on_delete=models.CASCADE, related_name="rates", verbose_name=_("level"))
    plan = models.ForeignKey(
        Plan,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("plan"),
        help_text=_("Empty: every plan that has no rate of its own, and traffic packs."),
    )
    basis_points = models.PositiveIntegerField(
        _("rate"),
        validators=[MaxValueValidator(10_000)],
        help_text=_("In hundredths of a percent: 1500 is 15 %."),
    )
    valid_from = models.DateTimeField(_("valid from"), null=True, blank=True)
    valid_until = models.DateTimeField(_("valid until"), null=True, blank=True)

    class Meta:
        db_table = "commission_rates"
        ordering = ["level", "plan", "-id"]
        verbose_name = _("commission rate")
        verbose_name_plural = _("commission rates")
        constraints = [models.CheckConstraint(condition=Q(basis_points__lte=10_000), name="rate_is_no_more_than_all")]

    def __str__(self) -> str:
        return f"{self.level} · {self.plan or '*'} · {self.basis_points / 100:g} %"


class Reseller(models.Model):
    """Somebody who resells, from their application on."""

    class State(models.TextChoices):
        APPLIED = "applied", _("applied")
        ACTIVE = "active", _("active")
        REJECTED = "rejected", _("rejected")
        SUSPENDED = "suspended", _("suspended")

    class PayoutKind(models.TextChoices):
        BANK = "bank", _("bank account")
        ALIPAY = "alipay", _("Alipay")
        WECHAT = "wechat", _("WeChat")

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reseller", verbose_name=_("user")
    )
    code = models.CharField(_("link code"), max_length=32, unique=True, validators=[LINK_CODE])
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.APPLIED)
    level = models.ForeignKey(Level, on_delete=models.PROTECT, related_name="resellers", verbose_name=_("level"))
    application = models.TextField(_("application"), blank=True, help_text=_("How they mean to sell."))
    contact = models.CharField(
        _("contact"), max_length=200, blank=True, help_text=_("Shown to those who redeemed their serials.")
    )
    renewal_url = models.URLField(_("where their customers renew"), blank=True)
    landing_text = models.TextField(_("text of the landing page"), blank=True, max_length=2000)
    terms_version = models.CharField(_("terms accepted"), max_length=20, blank=True)
    terms_accepted_at = models.DateTimeField(_("accepted at"), null=True, blank=True)
    payout_kind = models.CharField(_("payout by"), max_length=8, choices=PayoutKind.choices, blank=True)
    payout_details = SecretTextField(_("payout details"), null=True, blank=True)
    decided_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("decided by"),
    )
    decided_at = models.DateTimeField(_("decided at"), null=True, blank=True)
    decision_reason = models.CharField(_("reason"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("applied at"), default=clock.now)

    class Meta:
        db_table = "resellers"
        ordering = ["-id"]
        verbose_name = _("reseller")
        verbose_name_plural = _("resellers")
        indexes = [models.Index(fields=["-id"], condition=Q(state="applied"), name="resellers_to_decide")]

    def __str__(self) -> str:
        return self.user.username

    @property
    def is_active(self) -> bool:
        return self.state == self.State.ACTIVE


class LevelPeriod(AppendOnly):
    """From when a reseller is at a level: an old sale earns what the level of that day earned."""

    reseller = models.ForeignKey(
        Reseller, on_delete=models.PROTECT, related_name="level_periods", verbose_name=_("reseller")
    )
    level = models.ForeignKey(Level, on_delete=models.PROTECT, related_name="+", verbose_name=_("level"))
    since = models.DateTimeField(_("since"))
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("by"),
    )

    class Meta:
        db_table = "reseller_level_periods"
        ordering = ["-since", "-id"]
        verbose_name = _("level of a reseller")
        verbose_name_plural = _("levels of a reseller")
        indexes = [models.Index(fields=["reseller", "-since"], name="levels_by_time")]

    def __str__(self) -> str:
        return f"{self.reseller_id}: {self.level_id}"


class LinkDay(models.Model):
    """How often a reseller's link was opened on one of the operator's days."""

    reseller = models.ForeignKey(
        Reseller, on_delete=models.CASCADE, related_name="link_days", verbose_name=_("reseller")
    )
    day: models.DateField[date, date] = models.DateField(_("day"))
    clicks = models.PositiveIntegerField(_("clicks"), default=0)

    class Meta:
        db_table = "reseller_link_days"
        ordering = ["-day"]
        verbose_name = _("clicks of a day")
        verbose_name_plural = _("clicks of days")
        constraints = [models.UniqueConstraint(fields=["reseller", "day"], name="one_count_of_clicks_per_day")]

    def __str__(self) -> str:
        return f"{self.reseller_id} {self.day}: {self.clicks}"


class Signup(AppendOnly):
    """What became of the reference that somebody signed up with: read once, kept for ever."""

    class Verdict(models.TextChoices):
        ATTRIBUTED = "attributed", _("brought by the reseller")
        INVALID = "invalid", _("not a reference of ours")
        EXPIRED = "expired", _("the link was opened too long ago")
        INACTIVE = "inactive", _("the reseller is not active")
        OWN = "own", _("the reseller's own")

    user = models.OneToOneField(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="referral_signup", verbose_name=_("user")
    )
    reseller = models.ForeignKey(
        Reseller, null=True, blank=True, on_delete=models.PROTECT, related_name="signups", verbose_name=_("reseller")
    )
    verdict = models.CharField(_("verdict"), max_length=12, choices=Verdict.choices)
    clicked_at = models.DateTimeField(_("link opened"), null=True, blank=True)
    created_at = models.DateTimeField(_("signed up"), default=clock.now)

    class Meta:
        db_table = "referral_signups"
        ordering = ["-id"]
        verbose_name = _("sign-up by a link")
        verbose_name_plural = _("sign-ups by links")
        indexes = [models.Index(fields=["reseller", "-created_at"], name="signups_of_reseller")]

    def __str__(self) -> str:
        return f"{self.user_id}: {self.verdict}"


class Attribution(models.Model):
    """Whose customer somebody is, from when until when. Staff correct it by ending one and beginning another."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="attributions", verbose_name=_("customer")
    )
    reseller = models.ForeignKey(
        Reseller, on_delete=models.PROTECT, related_name="attributions", verbose_name=_("reseller")
    )
    since: models.DateTimeField[datetime, datetime] = models.DateTimeField(_("since"))
    until = models.DateTimeField(_("until"), null=True, blank=True)
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("by"),
    )
    created_at = models.DateTimeField(_("written"), default=clock.now)

    class Meta:
        db_table = "attributions"
        ordering = ["-id"]
        verbose_name = _("attribution")
        verbose_name_plural = _("attributions")
        constraints = [
            models.UniqueConstraint(fields=["user"], condition=Q(until=None), name="one_reseller_per_customer"),
        ]
        indexes = [models.Index(fields=["reseller", "-since"], name="customers_of_reseller")]

    def __str__(self) -> str:
        return f"{self.user_id} → {self.reseller_id}"


class LeaseContact(models.Model):
    """The reseller whose wholesale serial a lease began with: its customer sees them until staff reassign it."""

    lease = models.OneToOneField(
        Lease, on_delete=models.PROTECT, related_name="reseller_contact", verbose_name=_("lease")
    )
    reseller = models.ForeignKey(
        Reseller,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="lease_contacts",
        verbose_name=_("reseller"),
        help_text=_("Empty: the portal itself."),
    )
    reason = models.CharField(_("reason"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("since"), default=clock.now)

    class Meta:
        db_table = "lease_contacts"
        ordering = ["-id"]
        verbose_name = _("reseller of a lease")
        verbose_name_plural = _("resellers of leases")

    def __str__(self) -> str:
        return self.lease.name


class Resale(models.Model):
    """What a reseller got for a serial of their stock, in their own words. One serial is resold once."""

    sold = models.OneToOneField(
        "billing.SoldSerial", on_delete=models.PROTECT, related_name="resale", verbose_name=_("serial")
    )
    customer = models.CharField(_("customer"), max_length=120, blank=True)
    price = AmountField(_("price"))
    currency = CurrencyField()
    sold_on: models.DateField[date, date] = models.DateField(_("sold on"))
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("recorded"), default=clock.now)

    class Meta:
        db_table = "resales"
        ordering = ["-sold_on", "-id"]
        verbose_name = _("resale")
        verbose_name_plural = _("resales")
        constraints = [models.CheckConstraint(condition=Q(price__gte=0), name="resale_is_not_negative")]

    def __str__(self) -> str:
        return f"{self.sold_id}: {self.price}"
