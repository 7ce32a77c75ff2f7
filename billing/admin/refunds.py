"""Refunds: sent through the gateway by themselves, or by a person who says so here."""

from __future__ import annotations

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import services
from billing.models import Order, Refund
from derp_portal.lib.asking import Question, act, data_of
from fleet.admin.base import HistoryAdmin, actor, badge, change_url, link

from .forms import QuestionForm
from .payments import people
from .words import amount, words_for

STATE_COLOURS: dict[str, str] = {
    Refund.State.DUE: "info",
    Refund.State.DONE: "success",
    Refund.State.BY_HAND: "danger",
}


class SentForm(QuestionForm):
    """How the money was sent."""

    reference = forms.CharField(
        label=gettext_lazy("Sent by"),
        max_length=128,
        help_text=gettext_lazy("The number of your transfer, or what shows that it was sent."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )


@admin.register(Refund)
class RefundAdmin(HistoryAdmin):
    """Money given back. It is decided on the page of an order or a transfer."""

    list_display = (
        "number",
        "show_order",
        "show_buyer",
        "kind",
        "show_amount",
        "show_state",
        "takes_back",
        "reason",
        "created_at",
        "done_at",
    )
    list_filter = ("state", "kind", ("transfer__method", RelatedDropdownFilter), "takes_back", "currency", "created_at")
    list_select_related = ("order__user", "order__channel")
    search_fields = ("number",)
    search_help_text = gettext_lazy("Refund or order number from its beginning; user name or e-mail")
    ordering = ("-id",)
    actions_detail = ("sent",)
    fields = (
        ("number", "show_state"),
        ("show_order", "show_buyer"),
        ("show_amount", "show_transfer"),
        ("kind", "takes_back"),
        ("reason", "actor"),
        ("show_problem", "attempts"),
        ("created_at", "next_try_at"),
        ("done_at", "reference"),
    )
    readonly_fields = ("show_state", "show_order", "show_buyer", "show_transfer", "show_amount", "show_problem")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Refund]:
        """With what a page names."""
        queryset: QuerySet[Refund] = super().get_queryset(request)
        return queryset.select_related("order__user", "order__channel", "transfer__method")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Refund], search_term: str
    ) -> tuple[QuerySet[Refund], bool]:
        """By what people paste, from its beginning; and by who ordered."""
        text = search_term.strip()
        if not text:
            return queryset, False
        orders = Order.objects.filter(Q(number__startswith=text.upper()) | Q(user__in=people(text)))
        return queryset.filter(Q(number__startswith=text.upper()) | Q(order__in=orders)), False

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only for what a person must send."""
        if not Refund.objects.filter(pk=object_id, state=Refund.State.BY_HAND).exists():
            return []
        return list(super().get_actions_detail(request, object_id))

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, refund: Refund) -> str:
        """The state, coloured."""
        return badge(refund.get_state_display(), STATE_COLOURS[refund.state])

    @display(description=gettext_lazy("order"))
    def show_order(self, refund: Refund) -> str:
        """With a link."""
        return link(change_url(refund.order), refund.order)

    @display(description=gettext_lazy("customer or shop"))
    def show_buyer(self, refund: Refund) -> str:
        """Whose order."""
        return str(refund.order.user or refund.order.channel or "–")

    @display(description=gettext_lazy("transfer"), empty_value="–")
    def show_transfer(self, refund: Refund) -> str | None:
        """The money that goes back, with a link."""
        return link(change_url(refund.transfer), refund.transfer.transaction_id) if refund.transfer else None

    @display(description=gettext_lazy("amount"), ordering="amount")
    def show_amount(self, refund: Refund) -> str:
        """With its currency."""
        return amount(refund.amount, refund.currency)

    @display(description=gettext_lazy("problem"), empty_value="–")
    def show_problem(self, refund: Refund) -> str | None:
        """Why the gateway does not send it."""
        return words_for(refund.problem) if refund.problem else None

    @action(
        description=gettext_lazy("I have sent it"),
        url_path="sent",
        icon="done_all",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def sent(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """A person has sent the money."""
        refund: Refund = self.row_or_404(request, object_id)
        form = SentForm(data_of(request))
        told = {
            "refund": refund.number,
            "amount": amount(refund.amount, refund.currency),
            "buyer": str(refund.order.user or refund.order.channel),
        }

        def do() -> str:
            services.settle_by_hand(refund_id=refund.pk, reference=form.cleaned_data["reference"], actor=actor(request))
            return _("Refund %(refund)s is done.") % told

        question = Question(
            title=_("Has %(amount)s been sent back to %(buyer)s?") % told,
            lines=[
                _("Only say so when the money has left: it is booked as gone, and the customer is told by e-mail."),
                _("The portal sends no money here itself."),
            ],
            form=form,
            button=_("I have sent it"),
            back=change_url(refund),
        )
        return act(self, request, question, do)
