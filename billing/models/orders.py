"""Orders: what somebody wants, for how much, and how far it has come."""

from __future__ import annotations

from datetime import date, datetime

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derp_portal.lib import clock, money
from derp_portal.lib.append_only import AppendOnly
from serials.models import Lease, Plan, SerialNumber

from .catalogue import AmountField, Coupon, CurrencyField, PackOffer
from .channels import SalesChannel


class Order(models.Model):
    """One purchase. Its amounts are a copy of the prices of that moment and never change."""

    class State(models.TextChoices):
        PENDING = "pending", _("to be paid")
        PAID = "paid", _("paid")
        FULFILLED = "fulfilled", _("delivered")
        CANCELLED = "cancelled", _("cancelled")
        EXPIRED = "expired", _("expired")
        REFUNDED = "refunded", _("refunded")

    number = models.CharField(_("order number"), max_length=24, unique=True)
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="orders",
        verbose_name=_("customer"),
        help_text=_("None when an outside shop sold it."),
    )
    channel = models.ForeignKey(
        SalesChannel,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="orders",
        verbose_name=_("outside shop"),
    )
    external_number = models.CharField(_("the shop's order number"), max_length=80, blank=True)
    reseller = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("reseller"),
    )
    state = models.CharField(_("state"), max_length=10, choices=State.choices, default=State.PENDING)
    currency = CurrencyField()
    subtotal = AmountField(_("before discount"))
    discount = AmountField(_("discount"), default=0)
    total = AmountField(_("total"))
    received = AmountField(_("received"), default=0, help_text=_("What was counted as payment."))
    refunded = AmountField(_("given back"), default=0)
    coupon = models.ForeignKey(
        Coupon, null=True, blank=True, on_delete=models.PROTECT, related_name="orders", verbose_name=_("coupon")
    )
    client_key = models.CharField(
        _("idempotency key"), max_length=80, blank=True, help_text=_("The same key of one customer orders once.")
    )
    is_first = models.BooleanField(_("first order"), default=False, help_text=_("The customer had paid none before."))
    is_from_balance = models.BooleanField(_("paid from the balance"), default=False)
    is_news = models.BooleanField(
        default=False, editable=False, help_text=_("Paid, and the rooms above have not looked at it yet.")
    )
    trouble = models.CharField(_("waits because"), max_length=32, blank=True)
    created_at: models.DateTimeField[datetime, datetime] = models.DateTimeField(_("ordered"), default=clock.now)
    expires_at = models.DateTimeField(_("to be paid until"), null=True, blank=True)
    paid_at = models.DateTimeField(_("paid at"), null=True, blank=True)
    fulfilled_at = models.DateTimeField(_("delivered at"), null=True, blank=True)
    closed_at = models.DateTimeField(_("closed at"), null=True, blank=True)
    booked_day: models.DateField[date | None, date | None] = models.DateField(
        _("booked on"), null=True, blank=True, help_text=_("The operator's day on which it was paid.")
    )

    class Meta:
        db_table = "orders"
        ordering = ["-id"]
        verbose_name = _("order")
        verbose_name_plural = _("orders")
        constraints = [
            models.CheckConstraint(
                condition=Q(total=F("subtotal") - F("discount")) & Q(total__gte=0, discount__gte=0),
                name="order_total_adds_up",
            ),
            models.CheckConstraint(
                condition=Q(refunded__gte=0) & Q(refunded__lte=F("received")), name="order_gives_back_what_it_got"
            ),
            models.CheckConstraint(
                condition=Q(state__in=["pending", "cancelled", "expired"], paid_at=None, booked_day=None, received=0)
                | Q(state__in=["paid", "fulfilled", "refunded"], paid_at__isnull=False, booked_day__isnull=False),
                name="paid_orders_say_when",
            ),
            models.CheckConstraint(
                condition=Q(channel=None, user__isnull=False) | Q(channel__isnull=False, user=None),
                name="order_has_a_customer_or_a_shop",
            ),
            models.UniqueConstraint(
                fields=["channel", "external_number"],
                condition=Q(channel__isnull=False),
                name="one_order_per_external_number",
            ),
            models.UniqueConstraint(
                fields=["user", "client_key"], condition=~Q(client_key=""), name="one_order_per_client_key"
            ),
        ]
        indexes = [
            models.Index(fields=["user", "-id"], name="orders_of_user"),
            models.Index(fields=["expires_at"], condition=Q(state="pending"), name="orders_to_expire"),
            models.Index(fields=["paid_at"], condition=Q(state="paid"), name="orders_to_deliver"),
            models.Index(fields=["id"], condition=Q(is_news=True), name="orders_that_are_news"),
            models.Index(fields=["booked_day"], name="orders_by_day"),
            models.Index(fields=["created_at"], name="orders_by_creation"),
            models.Index(fields=["state", "-id"], name="orders_by_state"),
            models.Index(fields=["channel", "-id"], condition=Q(channel__isnull=False), name="orders_of_channel"),
        ]

    def __str__(self) -> str:
        return self.number

    @property
    def refundable(self) -> int:
        """What can still be given back, in minor units."""
        return int(self.received - self.refunded)

    @property
    def total_text(self) -> str:
        """The total in the reader's language."""
        return money.for_people(self.total, self.currency)


class OrderLine(models.Model):
    """One thing that was ordered. `snapshot` holds what the plan or pack promised then, and the steps of its price."""

    class Kind(models.TextChoices):
        SELF = "self", _("for oneself, redeemed at once")
        RENEWAL = "renewal", _("renewal")
        GIFT = "gift", _("serial number to hand on")
        PACK = "pack", _("traffic pack")
        WHOLESALE = "wholesale", _("wholesale")
        TOP_UP = "top_up", _("prepaid balance")
        OUTSIDE = "outside", _("sold by an outside shop")

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="lines", verbose_name=_("order"))
    kind = models.CharField(_("kind"), max_length=10, choices=Kind.choices)
    plan = models.ForeignKey(
        Plan, null=True, blank=True, on_delete=models.PROTECT, related_name="order_lines", verbose_name=_("plan")
    )
    pack = models.ForeignKey(
        PackOffer, null=True, blank=True, on_delete=models.PROTECT, related_name="order_lines", verbose_name=_("pack")
    )
    lease = models.ForeignKey(
        Lease,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="order_lines",
        verbose_name=_("for the lease"),
    )
    quantity = models.PositiveIntegerField(_("quantity"), default=1)
    unit_amount = AmountField(_("price of each"))
    amount = AmountField(_("amount"), help_text=_("After its part of the discount."))
    snapshot = models.JSONField(_("as ordered"), default=dict)
    problem = models.CharField(
        _("what was different"), max_length=32, blank=True, help_text=_("Why it was delivered otherwise than ordered.")
    )

    class Meta:
        db_table = "order_lines"
        ordering = ["id"]
        verbose_name = _("order line")
        verbose_name_plural = _("order lines")
        constraints = [
            models.CheckConstraint(
                condition=Q(kind="pack", pack__isnull=False, plan=None)
                | Q(kind="top_up", pack=None, plan=None)
                | (~Q(kind__in=["pack", "top_up"]) & Q(plan__isnull=False)),
                name="line_is_of_a_plan_or_a_pack",
            ),
            models.CheckConstraint(condition=Q(quantity__gte=1), name="line_has_a_quantity"),
            models.CheckConstraint(
                condition=Q(amount__gte=0) & Q(amount__lte=F("unit_amount") * F("quantity")),
                name="line_costs_no_more_than_its_price",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.order_id}: {self.quantity} × {self.plan or self.pack}"


class SoldSerial(models.Model):
    """A serial that an order line delivered, and its part of the money. One serial is sold once."""

    line = models.ForeignKey(OrderLine, on_delete=models.PROTECT, related_name="sold", verbose_name=_("order line"))
    serial = models.OneToOneField(
        SerialNumber, on_delete=models.PROTECT, related_name="sale", verbose_name=_("serial number")
    )
    amount = AmountField(_("amount"), help_text=_("Its part of what was booked."))
    cost = AmountField(_("cost"), default=0, help_text=_("Its part of what its buyer has paid and not got back."))
    taken_back_at = models.DateTimeField(_("taken back"), null=True, blank=True)

    class Meta:
        db_table = "sold_serials"
        ordering = ["id"]
        verbose_name = _("sold serial")
        verbose_name_plural = _("sold serials")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gte=0), name="sold_serial_is_not_negative"),
            models.CheckConstraint(condition=Q(cost__gte=0), name="sold_serial_costs_something_or_nothing"),
        ]

    def __str__(self) -> str:
        return f"{self.line_id}: {self.serial_id}"


class OrderTransition(AppendOnly):
    """Each step of an order: from which state to which, by whom, why."""

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="transitions", verbose_name=_("order"))
    from_state = models.CharField(
        pgettext_lazy("state", "from"), max_length=10, choices=Order.State.choices, blank=True
    )
    to_state = models.CharField(pgettext_lazy("state", "to"), max_length=10, choices=Order.State.choices)
    reason = models.CharField(_("why"), max_length=200, blank=True)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("by"),
    )
    created_at = models.DateTimeField(_("when"), default=clock.now)

    class Meta:
        db_table = "order_transitions"
        ordering = ["id"]
        verbose_name = _("step of an order")
        verbose_name_plural = _("steps of orders")

    def __str__(self) -> str:
        return f"{self.order_id}: {self.from_state} → {self.to_state}"


class CouponUse(models.Model):
    """One order's use of a coupon; given back when the order is never paid."""

    coupon = models.ForeignKey(Coupon, on_delete=models.PROTECT, related_name="uses", verbose_name=_("coupon"))
    order = models.OneToOneField(Order, on_delete=models.PROTECT, related_name="coupon_use", verbose_name=_("order"))
    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="coupon_uses", verbose_name=_("customer")
    )
    is_given_back = models.BooleanField(_("given back"), default=False)
    created_at = models.DateTimeField(_("when"), auto_now_add=True)

    class Meta:
        db_table = "coupon_uses"
        ordering = ["-id"]
        verbose_name = _("use of a coupon")
        verbose_name_plural = _("uses of coupons")
        indexes = [
            models.Index(fields=["coupon", "user"], condition=Q(is_given_back=False), name="coupon_uses_that_count")
        ]

    def __str__(self) -> str:
        return f"{self.coupon_id}: {self.order_id}"
