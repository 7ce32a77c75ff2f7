"""The order desk: what was ordered, paid, delivered and given back, and the few things that staff decide."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RelatedDropdownFilter
from unfold.decorators import display

from accounts.models import User
from billing.models import (
    CouponUse,
    Order,
    OrderLine,
    OrderTransition,
    Payment,
    Refund,
    SoldSerial,
    Transfer,
    TrialUse,
)
from billing.services.words import name_of, what_it_gives
from fleet.admin.base import HistoryInline, badge, change_url, link

from .order_actions import BY_HAND, OrderActions
from .words import amount, words_for

State = Order.State
STATE_COLOURS: dict[str, str] = {
    State.PENDING: "info",
    State.PAID: "warning",
    State.FULFILLED: "success",
    State.CANCELLED: "",
    State.EXPIRED: "",
    State.REFUNDED: "danger",
}
SHOWN = 50
"""So many of an order's serials are on its page; wholesale orders have thousands."""


class Waits(admin.SimpleListFilter):
    """Orders that wait for a person."""

    title = gettext_lazy("waits for a person")
    parameter_name = "waits"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """For what."""
        return [
            ("confirm", gettext_lazy("Money to confirm")),
            ("trouble", gettext_lazy("Paid, cannot be delivered")),
            ("held", gettext_lazy("Money that does not fit")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Order]) -> QuerySet[Order]:
        """Narrow the list."""
        narrow = {
            "confirm": lambda: queryset.filter(pk__in=to_confirm().values("order")),
            "trouble": lambda: queryset.filter(state=State.PAID).exclude(trouble=""),
            "held": lambda: queryset.filter(pk__in=held().values("payment__order")),
        }.get(self.value() or "")
        return narrow() if narrow else queryset


def to_confirm() -> QuerySet[Payment]:
    """Payments that no gateway will ever tell of, of orders that still wait for their money."""
    return Payment.objects.filter(state=Payment.State.OPEN, method__kind__in=BY_HAND, order__state=State.PENDING)


def held() -> QuerySet[Transfer]:
    """Money that a person must decide about."""
    return Transfer.objects.filter(state=Transfer.State.HELD)


class PartInline(HistoryInline):
    """What an order consists of: whoever may look at the order may look at it."""

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for the order."""
        return bool(request.user.has_perm("billing.view_order") or request.user.has_perm("billing.change_order"))


class LineInline(PartInline):
    """What was ordered."""

    model = OrderLine
    fields = readonly_fields = (
        "show_what",
        "kind",
        "quantity",
        "show_unit",
        "show_amount",
        "lease",
        "show_problem",
    )
    verbose_name_plural = gettext_lazy("what was ordered")

    def get_queryset(self, request: HttpRequest) -> QuerySet[OrderLine]:
        """With what the rows name, in one query."""
        return super().get_queryset(request).select_related("order", "plan", "pack", "lease")  # type: ignore[no-any-return]

    @display(description=gettext_lazy("what"))
    def show_what(self, line: OrderLine) -> str:
        """As it was called and what it gave when it was ordered."""
        is_money = line.kind == OrderLine.Kind.TOP_UP
        return name_of(line) if is_money else f"{name_of(line)} · {what_it_gives(line)}"

    @display(description=gettext_lazy("price of each"))
    def show_unit(self, line: OrderLine) -> str:
        """With its currency."""
        return amount(line.unit_amount, line.order.currency)

    @display(description=gettext_lazy("amount"))
    def show_amount(self, line: OrderLine) -> str:
        """After its part of the discount."""
        return amount(line.amount, line.order.currency)

    @display(description=gettext_lazy("what was different"), empty_value="–")
    def show_problem(self, line: OrderLine) -> str | None:
        """Why it was delivered otherwise than ordered."""
        return words_for(line.problem) if line.problem else None


class PaymentInline(PartInline):
    """The attempts to pay it."""

    model = Payment
    fields = readonly_fields = ("show_reference", "method", "show_amount", "state", "show_problem", "created_at")
    verbose_name_plural = gettext_lazy("payments")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Payment]:
        """With methods, in one query."""
        return super().get_queryset(request).select_related("method")  # type: ignore[no-any-return]

    @display(description=gettext_lazy("reference"))
    def show_reference(self, payment: Payment) -> str:
        """With a link."""
        return link(change_url(payment), payment.reference)

    @display(description=gettext_lazy("amount"))
    def show_amount(self, payment: Payment) -> str:
        """With its currency."""
        return payment.amount_text

    @display(description=gettext_lazy("problem"), empty_value="–")
    def show_problem(self, payment: Payment) -> str | None:
        """In words."""
        return words_for(payment.problem) if payment.problem else None


class RefundInline(PartInline):
    """What was given back."""

    model = Refund
    fields = readonly_fields = ("show_number", "show_amount", "state", "takes_back", "reason", "actor", "created_at")
    verbose_name_plural = gettext_lazy("refunds")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Refund]:
        """With who decided, in one query."""
        return super().get_queryset(request).select_related("actor")  # type: ignore[no-any-return]

    @display(description=gettext_lazy("refund number"))
    def show_number(self, refund: Refund) -> str:
        """With a link."""
        return link(change_url(refund), refund.number)

    @display(description=gettext_lazy("amount"))
    def show_amount(self, refund: Refund) -> str:
        """With its currency."""
        return amount(refund.amount, refund.currency)


class StepInline(PartInline):
    """How it came to be as it is."""

    model = OrderTransition
    fields = readonly_fields = ("created_at", "from_state", "to_state", "reason", "actor")
    verbose_name_plural = gettext_lazy("steps")

    def get_queryset(self, request: HttpRequest) -> QuerySet[OrderTransition]:
        """With who took them, in one query."""
        return super().get_queryset(request).select_related("actor")  # type: ignore[no-any-return]


@admin.register(Order)
class OrderAdmin(OrderActions):
    """Orders. No amount is ever edited: money is confirmed, or given back."""

    list_display = (
        "number",
        "show_buyer",
        "show_state",
        "show_what",
        "show_total",
        "show_received",
        "show_refunded",
        "created_at",
        "paid_at",
    )
    list_filter = (
        "state",
        Waits,
        ("channel", RelatedDropdownFilter),
        ("payments__method", RelatedDropdownFilter),
        ("coupon", AutocompleteSelectFilter),
        "currency",
        "created_at",
        "booked_day",
    )
    search_fields = ("number",)
    search_help_text = gettext_lazy(
        "Order number, the shop's number, payment reference or transaction from its beginning; user name or e-mail"
    )
    ordering = ("-id",)
    inlines = (LineInline, PaymentInline, RefundInline, StepInline)
    change_form_outer_after_template = "admin/billing/order_after.html"
    fieldsets = (
        (
            gettext_lazy("State"),
            {"fields": (("show_state", "show_trouble"), ("created_at", "expires_at"), ("paid_at", "fulfilled_at"))},
        ),
        (
            gettext_lazy("Order"),
            {
                "fields": (
                    ("number", "show_buyer"),
                    ("external_number", "reseller"),
                    ("show_coupon", "show_trial"),
                    ("booked_day", "is_first"),
                    "closed_at",
                )
            },
        ),
        (
            gettext_lazy("Money"),
            {"fields": (("show_subtotal", "show_discount", "show_total"), ("show_received", "show_refunded"))},
        ),
    )
    readonly_fields = (
        "show_state",
        "show_trouble",
        "show_buyer",
        "show_coupon",
        "show_trial",
        "show_subtotal",
        "show_discount",
        "show_total",
        "show_received",
        "show_refunded",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Order]:
        """With what the list names, in a fixed number of queries."""
        queryset: QuerySet[Order] = super().get_queryset(request)
        lines = OrderLine.objects.select_related("plan", "pack")
        named = queryset.select_related("user", "channel", "reseller", "coupon")
        held = Transfer.objects.filter(payment__order=OuterRef("pk"), state=Transfer.State.HELD)
        return named.prefetch_related(Prefetch("lines", queryset=lines)).annotate(has_held_money=Exists(held))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Order], search_term: str
    ) -> tuple[QuerySet[Order], bool]:
        """By what people paste, from its beginning; and by who ordered. Found first, so that nothing is joined."""
        text = search_term.strip()
        if not text:
            return queryset, False
        people = User.objects.filter(Q(username__icontains=text) | Q(email__icontains=text))
        paid = Payment.objects.filter(reference__startswith=text.upper())
        came = Transfer.objects.filter(transaction_id__startswith=text)
        numbered = Q(number__startswith=text.upper()) | Q(external_number__startswith=text)
        found = numbered | Q(user__in=people) | Q(pk__in=paid.values("order")) | Q(pk__in=came.values("payment__order"))
        return queryset.filter(found), False

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With the money that came in and the serials that went out, which hang on payments and lines."""
        more: dict[str, Any] = {}
        order = self.get_object(request, object_id)
        if order is not None:
            sold = SoldSerial.objects.filter(line__order=order)
            came = Transfer.objects.filter(payment__order=order).select_related("method", "actor")
            more = {
                "transfers": [(transfer, amount(transfer.amount, transfer.currency)) for transfer in came],
                "sold": sold.select_related("serial__user", "serial__plan")[:SHOWN],
                "sold_count": sold.count(),
            }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, order: Order) -> str:
        """The state, coloured; and whether it is stuck in it, or money has come that a person must look at."""
        state = badge(order.get_state_display(), STATE_COLOURS[order.state])
        if order.trouble:
            return format_html("{} {}", state, badge(_("stuck"), "danger"))
        if getattr(order, "has_held_money", False):
            return format_html("{} {}", state, badge(_("money to look at"), "warning"))
        return state

    @display(description=gettext_lazy("waits because"), empty_value="–")
    def show_trouble(self, order: Order) -> str | None:
        """In words."""
        return words_for(order.trouble) if order.trouble else None

    @display(description=gettext_lazy("customer or shop"))
    def show_buyer(self, order: Order) -> str:
        """With a link."""
        buyer = order.user or order.channel
        return link(change_url(buyer), buyer) if buyer else "–"

    @display(description=gettext_lazy("what"))
    def show_what(self, order: Order) -> str:
        """The first lines in short."""
        lines = list(order.lines.all())
        words = " · ".join(f"{line.quantity} × {name_of(line)}" for line in lines[:2])
        return f"{words} …" if len(lines) > 2 else words

    @display(description=gettext_lazy("total"), ordering="total")
    def show_total(self, order: Order) -> str:
        """With its currency."""
        return order.total_text

    @display(description=gettext_lazy("before discount"))
    def show_subtotal(self, order: Order) -> str:
        """With its currency."""
        return amount(order.subtotal, order.currency)

    @display(description=gettext_lazy("discount"))
    def show_discount(self, order: Order) -> str:
        """With its currency."""
        return amount(order.discount, order.currency)

    @display(description=gettext_lazy("received"), ordering="received")
    def show_received(self, order: Order) -> str:
        """What was counted as payment."""
        return amount(order.received, order.currency)

    @display(description=gettext_lazy("given back"), ordering="refunded")
    def show_refunded(self, order: Order) -> str:
        """With its currency."""
        return amount(order.refunded, order.currency)

    @display(description=gettext_lazy("coupon"), empty_value="–")
    def show_coupon(self, order: Order) -> str | None:
        """With a link, and whether its use counts."""
        if order.coupon is None:
            return None
        use = CouponUse.objects.filter(order=order).first()
        given_back = badge(_("given back"), "") if use and use.is_given_back else ""
        return format_html("{} {}", link(change_url(order.coupon), order.coupon), given_back)

    @display(description=gettext_lazy("trial"), empty_value="–")
    def show_trial(self, order: Order) -> str | None:
        """Whether it used up somebody's trial."""
        use = TrialUse.objects.filter(order=order).first()
        if use is None:
            return None
        return format_html("{} {}", use.person, badge(_("given back"), "") if use.is_given_back else "")
