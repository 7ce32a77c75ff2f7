"""Payments: how an order is to be paid, what came in for it, what was given back, and what gateways said."""

from __future__ import annotations

from django.conf import settings
from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import clock, money
from derp_portal.lib.append_only import AppendOnly
from derp_portal.lib.secrets import SecretTextField
from derp_portal.lib.wording import local

from .catalogue import AmountField, CurrencyField
from .orders import Order


class PaymentMethod(models.Model):
    """A way to pay that the operator has set up: a gateway with its settings."""

    code = models.SlugField(
        _("code"), max_length=40, unique=True, help_text=_("Part of the address that the gateway calls back.")
    )
    kind = models.CharField(_("gateway"), max_length=20)
    name = models.CharField(_("name"), max_length=60)
    name_zh = models.CharField(_("Chinese name"), max_length=60, blank=True)
    is_enabled = models.BooleanField(_("offered"), default=True)
    currency = CurrencyField()
    settings = SecretTextField(_("settings"), default="{}", help_text=_("As JSON, encrypted at rest."))
    fee_basis_points = models.PositiveIntegerField(
        _("the gateway's share"),
        default=0,
        validators=[MaxValueValidator(10_000)],
        help_text=_("In hundredths of a percent (60 is 0.6 %), for gateways that do not say what they kept."),
    )
    position = models.PositiveSmallIntegerField(_("position"), default=0)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        db_table = "payment_methods"
        ordering = ["position", "id"]
        verbose_name = _("payment method")
        verbose_name_plural = _("payment methods")
        constraints = [
            models.CheckConstraint(condition=Q(fee_basis_points__lte=10_000), name="gateway_keeps_no_more_than_all")
        ]

    def __str__(self) -> str:
        return self.local_name

    @property
    def local_name(self) -> str:
        """The name in the reader's language."""
        return local(self.name, self.name_zh)


class Payment(models.Model):
    """One attempt to pay an order by one method. `reference` is how we and the gateway call it."""

    class State(models.TextChoices):
        OPEN = "open", _("waiting for the money")
        PAID = "paid", _("paid")
        HELD = "held", _("a person must look")
        CLOSED = "closed", _("will not be paid")

    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="payments", verbose_name=_("order"))
    method = models.ForeignKey(
        PaymentMethod, on_delete=models.PROTECT, related_name="payments", verbose_name=_("payment method")
    )
    reference = models.CharField(_("reference"), max_length=32, unique=True)
    amount = AmountField(_("amount"))
    currency = CurrencyField()
    state = models.CharField(_("state"), max_length=8, choices=State.choices, default=State.OPEN)
    problem = models.CharField(_("problem"), max_length=32, blank=True)
    redirect_url = models.TextField(_("payment page"), blank=True, editable=False)
    qr_text = models.TextField(_("QR code"), blank=True, editable=False)
    gateway_id = models.CharField(_("the gateway's name for it"), max_length=128, blank=True)
    created_at = models.DateTimeField(_("begun"), default=clock.now)
    paid_at = models.DateTimeField(_("paid at"), null=True, blank=True)
    next_query_at = models.DateTimeField(
        _("asked next"), null=True, blank=True, help_text=_("When the gateway is asked, if it has not called.")
    )
    queries = models.PositiveSmallIntegerField(_("times asked"), default=0)

    class Meta:
        db_table = "payments"
        ordering = ["-id"]
        verbose_name = _("payment")
        verbose_name_plural = _("payments")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="payment_is_of_something"),
            models.CheckConstraint(
                condition=~Q(state="paid") | Q(paid_at__isnull=False), name="paid_payments_say_when"
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_query_at"], condition=Q(next_query_at__isnull=False), name="payments_asked_about"
            ),
            models.Index(fields=["state", "-id"], name="payments_by_state"),
        ]

    def __str__(self) -> str:
        return self.reference

    @property
    def amount_text(self) -> str:
        """The amount in the reader's language."""
        return money.for_people(self.amount, self.currency)


class GatewayCallback(AppendOnly):
    """A request that a gateway, or somebody who pretends to be one, sent: as it came, and what was made of it."""

    class Verdict(models.TextChoices):
        COUNTED = "counted", _("the order is paid")
        REPEATED = "repeated", _("known already")
        HELD = "held", _("a person must look")
        NOTED = "noted", _("no money yet")
        REFUSED = "refused", _("not believed")
        FAILED = "failed", _("it could not be worked on")

    method = models.ForeignKey(
        PaymentMethod, on_delete=models.PROTECT, related_name="callbacks", verbose_name=_("payment method")
    )
    payment = models.ForeignKey(
        Payment, null=True, blank=True, on_delete=models.PROTECT, related_name="callbacks", verbose_name=_("payment")
    )
    verdict = models.CharField(_("verdict"), max_length=8, choices=Verdict.choices)
    reason = models.CharField(_("reason"), max_length=40, blank=True)
    http_method = models.CharField(_("HTTP method"), max_length=8)
    headers = models.JSONField(_("headers"), default=dict)
    query = models.TextField(_("query"), blank=True)
    body = models.TextField(_("body"), blank=True)
    ip = models.GenericIPAddressField(_("IP address"), null=True, blank=True)
    created_at = models.DateTimeField(_("received"), default=clock.now)

    class Meta:
        db_table = "gateway_callbacks"
        ordering = ["-id"]
        verbose_name = _("gateway callback")
        verbose_name_plural = _("gateway callbacks")
        indexes = [
            models.Index(fields=["-created_at"], name="callbacks_by_time"),
            models.Index(fields=["verdict", "-id"], name="callbacks_by_verdict"),
            # What was told of transactions that we had not heard of: few, among all that was ever noted.
            models.Index(
                fields=["method", "id"], condition=Q(verdict="noted", payment=None), name="callbacks_of_the_unknown"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.method_id}: {self.verdict}"


class Transfer(models.Model):
    """Money that came in. One row for each transaction of a gateway, whatever became of it."""

    class State(models.TextChoices):
        COUNTED = "counted", _("counted for the order")
        HELD = "held", _("a person must look")
        RETURNED = "returned", _("given back")

    class Source(models.TextChoices):
        CALLBACK = "callback", _("the gateway called")
        QUERY = "query", _("the gateway was asked")
        STAFF = "staff", _("confirmed by staff")

    class Dispute(models.TextChoices):
        ASKED = "asked", _("the payer's bank asks")
        OPEN = "open", _("disputed by the payer")
        WON = "won", _("dispute won")
        LOST = "lost", _("dispute lost")

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="transfers", verbose_name=_("payment"))
    method = models.ForeignKey(
        PaymentMethod, on_delete=models.PROTECT, related_name="transfers", verbose_name=_("payment method")
    )
    transaction_id = models.CharField(_("transaction"), max_length=128)
    amount = AmountField(_("amount"))
    currency = CurrencyField()
    fee = AmountField(_("the gateway kept"), default=0)
    state = models.CharField(_("state"), max_length=8, choices=State.choices)
    problem = models.CharField(_("why it is held"), max_length=32, blank=True)
    source = models.CharField(_("how we know"), max_length=8, choices=Source.choices)
    evidence = models.TextField(_("evidence"), blank=True, help_text=_("What the one who confirmed it had seen."))
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("confirmed by"),
    )
    paid_at = models.DateTimeField(_("paid at"))
    dispute = models.CharField(_("dispute"), max_length=5, choices=Dispute.choices, blank=True)
    dispute_id = models.CharField(_("the gateway's name of the dispute"), max_length=64, blank=True)
    payer_digest = models.CharField(max_length=64, blank=True, editable=False)
    created_at = models.DateTimeField(_("received"), default=clock.now)

    class Meta:
        db_table = "transfers"
        ordering = ["-id"]
        verbose_name = _("transfer")
        verbose_name_plural = _("transfers")
        constraints = [
            models.UniqueConstraint(fields=["method", "transaction_id"], name="one_transfer_per_transaction"),
            models.CheckConstraint(condition=Q(amount__gt=0), name="transfer_is_of_something"),
        ]
        indexes = [
            models.Index(fields=["-id"], condition=Q(state="held"), name="transfers_held"),
            models.Index(fields=["-id"], condition=Q(dispute__in=["asked", "open"]), name="transfers_disputed"),
            models.Index(fields=["payer_digest"], condition=~Q(payer_digest=""), name="transfers_by_payer"),
        ]

    def __str__(self) -> str:
        return f"{self.transaction_id}: {money.to_text(self.amount, self.currency)} {self.currency}"


class Refund(models.Model):
    """Money given back: decided and booked first, then sent through the gateway or by a person."""

    class Kind(models.TextChoices):
        ORDER = "order", _("of an order")
        TRANSFER = "transfer", _("of money that was not counted")

    class State(models.TextChoices):
        DUE = "due", _("on its way")
        DONE = "done", _("done")
        BY_HAND = "by_hand", _("a person must send it")

    number = models.CharField(_("refund number"), max_length=32, unique=True)
    kind = models.CharField(_("kind"), max_length=8, choices=Kind.choices, default=Kind.ORDER)
    order = models.ForeignKey(Order, on_delete=models.PROTECT, related_name="refunds", verbose_name=_("order"))
    transfer = models.ForeignKey(
        Transfer, null=True, blank=True, on_delete=models.PROTECT, related_name="refunds", verbose_name=_("transfer")
    )
    amount = AmountField(_("amount"))
    currency = CurrencyField()
    state = models.CharField(_("state"), max_length=8, choices=State.choices, default=State.DUE)
    takes_back = models.BooleanField(_("took back what was delivered"), default=False)
    reason = models.CharField(_("reason"), max_length=200)
    problem = models.CharField(_("problem"), max_length=200, blank=True)
    reference = models.CharField(
        _("sent by"), max_length=128, blank=True, help_text=_("The gateway's number, or what a person wrote down.")
    )
    is_news = models.BooleanField(default=False, editable=False)
    attempts = models.PositiveSmallIntegerField(_("attempts"), default=0)
    next_try_at = models.DateTimeField(_("next try"), default=clock.now)
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        verbose_name=_("by"),
    )
    created_at = models.DateTimeField(_("decided"), default=clock.now)
    done_at = models.DateTimeField(_("done at"), null=True, blank=True)

    class Meta:
        db_table = "refunds"
        ordering = ["-id"]
        verbose_name = _("refund")
        verbose_name_plural = _("refunds")
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="refund_is_of_something"),
            models.CheckConstraint(condition=~Q(state="done") | Q(done_at__isnull=False), name="refunds_say_when"),
        ]
        indexes = [
            models.Index(fields=["next_try_at"], condition=Q(state="due"), name="refunds_to_send"),
            models.Index(fields=["-id"], condition=Q(state="by_hand"), name="refunds_by_hand"),
            models.Index(fields=["id"], condition=Q(is_news=True), name="refunds_that_are_news"),
        ]

    def __str__(self) -> str:
        return self.number


class SandboxCharge(models.Model):
    """The books of the test gateway: what it was asked for and what was paid there. Never real money."""

    class State(models.TextChoices):
        OPEN = "open", _("waiting for the money")
        PAID = "paid", _("paid")
        CLOSED = "closed", _("will not be paid")

    reference = models.CharField(max_length=32, unique=True)
    method = models.ForeignKey(PaymentMethod, on_delete=models.CASCADE, related_name="+")
    amount = AmountField()
    currency = CurrencyField()
    subject = models.CharField(max_length=200)
    notify_url = models.TextField()
    return_url = models.TextField()
    state = models.CharField(max_length=8, choices=State.choices, default=State.OPEN)
    transaction_id = models.CharField(max_length=64, blank=True)
    paid_amount = AmountField(default=0)
    paid_at = models.DateTimeField(null=True, blank=True)
    payer = models.CharField(max_length=64, blank=True)
    refunded = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=clock.now)

    class Meta:
        db_table = "sandbox_charges"
        ordering = ["-id"]

    def __str__(self) -> str:
        return self.reference


class SandboxCallback(models.Model):
    """A callback that the test gateway owes: sent when due, again and again until it is taken, like the real ones."""

    charge = models.ForeignKey(SandboxCharge, on_delete=models.CASCADE, related_name="callbacks")
    body = models.TextField()
    due_at = models.DateTimeField(default=clock.now)
    attempts = models.PositiveSmallIntegerField(default=0)
    taken_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "sandbox_callbacks"
        ordering = ["due_at", "id"]
        indexes = [models.Index(fields=["due_at"], condition=Q(taken_at=None), name="sandbox_callbacks_due")]

    def __str__(self) -> str:
        return f"{self.charge_id}: {self.due_at:%H:%M:%S}"
