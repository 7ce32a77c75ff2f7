"""Attempts to pay, money that came in, and what gateways sent: as it was, with what a person may decide about it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from accounts.models import User
from billing import services
from billing.models import GatewayCallback, Order, Payment, Transfer
from billing.services.payments import ask_about
from billing.services.receiving import OPEN_STATES, Taken
from derp_portal.lib import money
from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.errors import PortalError
from fleet.admin.base import HistoryAdmin, HistoryInline, actor, badge, change_url, link, list_url

from .forms import ReasonForm
from .order_actions import BY_HAND, way_back
from .words import amount, words_for

PAYMENT_COLOURS: dict[str, str] = {
    Payment.State.OPEN: "info",
    Payment.State.PAID: "success",
    Payment.State.HELD: "danger",
    Payment.State.CLOSED: "",
}
TRANSFER_COLOURS: dict[str, str] = {
    Transfer.State.COUNTED: "success",
    Transfer.State.HELD: "danger",
    Transfer.State.RETURNED: "",
}
DISPUTE_COLOURS: dict[str, str] = {
    Transfer.Dispute.ASKED: "warning",
    Transfer.Dispute.OPEN: "danger",
    Transfer.Dispute.WON: "success",
    Transfer.Dispute.LOST: "danger",
}


def people(text: str) -> QuerySet[User]:
    """Users by a piece of their name or address."""
    return User.objects.filter(Q(username__icontains=text) | Q(email__icontains=text))


class TransferInline(HistoryInline):
    """What came in for the payment."""

    model = Transfer
    fields = readonly_fields = ("show_transaction", "show_amount", "state", "source", "actor", "paid_at")
    verbose_name_plural = gettext_lazy("money that came in")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Transfer]:
        """With who confirmed it, in one query."""
        return super().get_queryset(request).select_related("actor")  # type: ignore[no-any-return]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for the payment."""
        return bool(request.user.has_perm("billing.view_payment") or request.user.has_perm("billing.change_payment"))

    @display(description=gettext_lazy("transaction"))
    def show_transaction(self, transfer: Transfer) -> str:
        """With a link."""
        return link(change_url(transfer), transfer.transaction_id)

    @display(description=gettext_lazy("amount"))
    def show_amount(self, transfer: Transfer) -> str:
        """With its currency."""
        return amount(transfer.amount, transfer.currency)


@admin.register(Payment)
class PaymentAdmin(HistoryAdmin):
    """Attempts to pay. What becomes of one is for its gateway to say, or for a person on the order's page."""

    list_display = (
        "reference",
        "show_order",
        "show_buyer",
        "method",
        "show_amount",
        "show_state",
        "show_problem",
        "created_at",
        "paid_at",
    )
    list_filter = ("state", ("method", RelatedDropdownFilter), "currency", "created_at")
    list_select_related = ("order__user", "order__channel", "method")
    search_fields = ("reference",)
    search_help_text = gettext_lazy(
        "Reference, the gateway's name for it or order number from its beginning; user name or e-mail"
    )
    ordering = ("-id",)
    inlines = (TransferInline,)
    actions_detail = ("ask",)
    fields = (
        ("reference", "show_state"),
        ("show_order", "show_buyer"),
        ("method", "show_amount"),
        ("show_problem", "gateway_id"),
        ("created_at", "paid_at"),
        ("next_query_at", "queries"),
        "show_callbacks",
    )
    readonly_fields = ("show_order", "show_buyer", "show_amount", "show_state", "show_problem", "show_callbacks")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Payment], search_term: str
    ) -> tuple[QuerySet[Payment], bool]:
        """By what people paste, from its beginning; and by who ordered."""
        text = search_term.strip()
        if not text:
            return queryset, False
        orders = Order.objects.filter(Q(number__startswith=text.upper()) | Q(user__in=people(text)))
        named = Q(reference__startswith=text.upper()) | Q(gateway_id__startswith=text)
        return queryset.filter(named | Q(order__in=orders)), False

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Nobody can be asked about a transfer between bank accounts."""
        if Payment.objects.filter(pk=object_id, method__kind__in=BY_HAND).exists():
            return []
        return list(super().get_actions_detail(request, object_id))

    @display(description=gettext_lazy("order"))
    def show_order(self, payment: Payment) -> str:
        """With a link."""
        return link(change_url(payment.order), payment.order)

    @display(description=gettext_lazy("customer or shop"))
    def show_buyer(self, payment: Payment) -> str:
        """Whose order."""
        return str(payment.order.user or payment.order.channel or "–")

    @display(description=gettext_lazy("amount"), ordering="amount")
    def show_amount(self, payment: Payment) -> str:
        """With its currency."""
        return payment.amount_text

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, payment: Payment) -> str:
        """The state, coloured."""
        return badge(payment.get_state_display(), PAYMENT_COLOURS[payment.state])

    @display(description=gettext_lazy("problem"), empty_value="–")
    def show_problem(self, payment: Payment) -> str | None:
        """In words."""
        return words_for(payment.problem) if payment.problem else None

    @display(description=gettext_lazy("gateway callbacks"))
    def show_callbacks(self, payment: Payment) -> str:
        """With a link to them."""
        count = payment.callbacks.count()
        return link(list_url(GatewayCallback, q=payment.reference), _("Show all %(count)s") % {"count": count})

    @action(
        description=gettext_lazy("Ask the gateway now"), url_path="ask", icon="contact_support", permissions=["act"]
    )
    def ask(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """What became of it."""
        payment: Payment = self.row_or_404(request, object_id)

        def do() -> str:
            taken = ask_about(payment.pk)
            if taken is None:
                raise PortalError(
                    _("%(method)s does not answer, or knows no such payment. Nothing has changed.")
                    % {"method": payment.method.local_name},
                    code="no_answer",
                )
            return answered(taken)

        question = Question(
            title=_("Ask %(method)s about payment %(payment)s?")
            % {"method": payment.method.local_name, "payment": payment.reference},
            lines=[
                _("What it says is acted on as if it had called: money that came is counted, and the order delivered."),
                _("Asking changes nothing there. It is asked by itself too, if it has not called."),
            ],
            button=_("Ask"),
            back=change_url(payment),
        )
        return act(self, request, question, do)


def answered(taken: Taken) -> str:
    """What a gateway's answer came to."""
    if taken.verdict == "held":
        return _("Money came that does not fit. It waits for you among the transfers. %(why)s") % {
            "why": words_for(taken.problem)
        }
    words = {
        "counted": _("It was paid: the order is paid now, and is delivered by itself."),
        "repeated": _("It was paid, as we knew already."),
        "noted": _("It has not been paid."),
    }
    return words[taken.verdict]


@admin.register(Transfer)
class TransferAdmin(HistoryAdmin):
    """Money that came in. What does not fit its order waits here until somebody decides."""

    list_display = (
        "transaction_id",
        "show_state",
        "show_order",
        "show_buyer",
        "method",
        "show_amount",
        "show_problem",
        "source",
        "created_at",
    )
    list_filter = ("state", "dispute", ("method", RelatedDropdownFilter), "source", "currency", "created_at")
    list_select_related = ("payment__order__user", "payment__order__channel", "method")
    search_fields = ("transaction_id",)
    search_help_text = gettext_lazy("Transaction, reference or order number from its beginning; user name or e-mail")
    ordering = ("-id",)
    actions_detail = ("accept", "give_back")
    fields = (
        ("transaction_id", "show_state"),
        "show_problem",
        ("show_amount", "show_total"),
        ("show_order", "show_buyer"),
        ("show_payment", "method"),
        ("show_fee", "source"),
        ("evidence", "actor"),
        ("paid_at", "created_at"),
    )
    readonly_fields = (
        "show_state",
        "show_order",
        "show_buyer",
        "show_payment",
        "show_amount",
        "show_total",
        "show_fee",
        "show_problem",
    )

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Transfer], search_term: str
    ) -> tuple[QuerySet[Transfer], bool]:
        """By what people paste, from its beginning; and by who ordered."""
        text = search_term.strip()
        if not text:
            return queryset, False
        orders = Order.objects.filter(Q(number__startswith=text.upper()) | Q(user__in=people(text)))
        payments = Payment.objects.filter(Q(reference__startswith=text.upper()) | Q(order__in=orders))
        return queryset.filter(Q(transaction_id__startswith=text) | Q(payment__in=payments)), False

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Held money is counted where it can be, or given back."""
        transfer = Transfer.objects.filter(pk=object_id).select_related("payment__order").first()
        if transfer is None or transfer.state != Transfer.State.HELD:
            return []
        offered = super().get_actions_detail(request, object_id)
        return [one for one in offered if one.action_name != "billing_transfer_accept" or can_count(transfer)]

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, transfer: Transfer) -> str:
        """The state, coloured, and what became of a dispute."""
        state = badge(transfer.get_state_display(), TRANSFER_COLOURS[transfer.state])
        if not transfer.dispute:
            return state
        return format_html("{} {}", state, badge(transfer.get_dispute_display(), DISPUTE_COLOURS[transfer.dispute]))

    @display(description=gettext_lazy("order"))
    def show_order(self, transfer: Transfer) -> str:
        """With a link."""
        return link(change_url(transfer.payment.order), transfer.payment.order)

    @display(description=gettext_lazy("customer or shop"))
    def show_buyer(self, transfer: Transfer) -> str:
        """Whose order."""
        return str(transfer.payment.order.user or transfer.payment.order.channel or "–")

    @display(description=gettext_lazy("payment"))
    def show_payment(self, transfer: Transfer) -> str:
        """With a link."""
        return link(change_url(transfer.payment), transfer.payment)

    @display(description=gettext_lazy("amount"), ordering="amount")
    def show_amount(self, transfer: Transfer) -> str:
        """With its currency."""
        return amount(transfer.amount, transfer.currency)

    @display(description=gettext_lazy("the order costs"))
    def show_total(self, transfer: Transfer) -> str:
        """To be compared with."""
        return transfer.payment.order.total_text

    @display(description=gettext_lazy("the gateway kept"))
    def show_fee(self, transfer: Transfer) -> str:
        """With its currency."""
        return amount(transfer.fee, transfer.currency)

    @display(description=gettext_lazy("why it was held"), empty_value="–")
    def show_problem(self, transfer: Transfer) -> str | None:
        """In words."""
        return words_for(transfer.problem) if transfer.problem else None

    def _decided(self, request: HttpRequest, transfer: Transfer) -> HttpResponseBase:
        """A page that was left open, or gone back to."""
        messages.info(request, _("This was decided before: %(state)s.") % {"state": transfer.get_state_display()})
        return redirect(change_url(transfer))

    @action(
        description=gettext_lazy("Count it as payment"),
        url_path="accept",
        icon="price_check",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def accept(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Though it does not fit."""
        transfer: Transfer = self.row_or_404(request, object_id)
        if transfer.state != Transfer.State.HELD:
            return self._decided(request, transfer)
        form = ReasonForm(data_of(request))
        order = transfer.payment.order

        def do() -> HttpResponseBase:
            services.accept_transfer(transfer_id=transfer.pk, reason=form.cleaned_data["reason"], actor=actor(request))
            messages.success(request, _("Order %(order)s is paid. It is delivered by itself.") % told)
            return redirect(change_url(order))

        told = _told(transfer)
        lines = [
            _("%(amount)s came for order %(order)s of %(buyer)s, which costs %(total)s.") % told,
            words_for(transfer.problem),
        ]
        if not can_count(transfer):
            lines.append(_("This money cannot be counted for the order. It can only be given back."))
        elif transfer.amount < order.total:
            lines.append(
                _("The order counts as paid with what came, and is delivered though %(missing)s are missing.") % told
            )
        elif transfer.amount > order.total:
            lines.append(
                _("The order is paid and delivered, and the %(surplus)s too much are given back at once.") % told
            )
        else:
            lines.append(_("The order is paid with it and delivered, with what it had reserved: coupon and trial."))
        question = Question(
            title=_("Count %(amount)s as payment of order %(order)s?") % told,
            lines=lines,
            form=form,
            button=_("Count it"),
            back=change_url(transfer),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Give it back"),
        url_path="give-back",
        icon="undo",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def give_back(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """All of it, to whoever sent it."""
        transfer: Transfer = self.row_or_404(request, object_id)
        if transfer.state != Transfer.State.HELD:
            return self._decided(request, transfer)
        form = ReasonForm(data_of(request))

        def do() -> HttpResponseBase:
            refund = services.give_back_transfer(
                transfer_id=transfer.pk, reason=form.cleaned_data["reason"], actor=actor(request)
            )
            messages.success(request, _("%(amount)s will be given back.") % _told(transfer))
            return redirect(change_url(refund))

        question = Question(
            title=_("Give back %(amount)s of order %(order)s?") % _told(transfer),
            lines=[
                _("Nothing of it was counted for the order: nothing that was delivered is taken back."),
                way_back(transfer),
            ],
            form=form,
            button=_("Give it back"),
            back=change_url(transfer),
            is_dangerous=True,
        )
        return act(self, request, question, do)


def can_count(transfer: Transfer) -> bool:
    """Whether its order could still be paid with it."""
    order = transfer.payment.order
    return transfer.state == Transfer.State.HELD and order.state in OPEN_STATES and transfer.currency == order.currency


def _told(transfer: Transfer) -> dict[str, str]:
    order = transfer.payment.order
    return {
        "amount": money.for_people(transfer.amount, transfer.currency),
        "order": order.number,
        "buyer": str(order.user or order.channel),
        "total": order.total_text,
        "missing": money.for_people(max(order.total - transfer.amount, 0), order.currency),
        "surplus": money.for_people(max(transfer.amount - order.total, 0), order.currency),
    }
