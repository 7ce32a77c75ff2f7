"""What orders earned, and the desk of those that a person must look at first."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import AutocompleteSelectFilter, DropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from billing.admin.forms import ReasonForm
from billing.admin.words import amount
from billing.finance.days import month_before, month_named
from billing.models import Order
from billing.services.ledger import today
from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.wording import enumeration
from fleet.admin.base import HistoryAdmin, actor, badge, change_url, link
from resellers import services
from resellers.models import CommissionLine, Suspicion

from .words import percent, signals_in_words, why_in_words

KIND_COLOURS: dict[str, str] = {
    CommissionLine.Kind.EARNED: "success",
    CommissionLine.Kind.REVERSED: "danger",
    CommissionLine.Kind.NOTHING: "",
}
SUSPICION_COLOURS: dict[str, str] = {
    Suspicion.State.OPEN: "danger",
    Suspicion.State.CLEARED: "success",
    Suspicion.State.CONFIRMED: "",
}
SHOWN_MONTHS = 24


class MonthFilter(DropdownFilter):
    """By a month of the operator's; the latest ones to choose from, any other by the address."""

    title = gettext_lazy("month")
    parameter_name = "month"
    field = "month"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """The latest two years, and the month to come, which held commissions fall into."""
        months: list[date] = [today().replace(day=1)]
        while len(months) < SHOWN_MONTHS:
            months.append(month_before(months[-1]))
        return [(f"{month:%Y-%m}", f"{month:%Y-%m}") for month in months]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list; what is no month narrows nothing."""
        try:
            month = month_named(self.value() or "")
        except ValueError:
            return queryset
        return queryset.filter(**{self.field: month})


class SettleMonth(MonthFilter):
    """Commissions by the month they are settled with."""

    title = gettext_lazy("settled with")
    field = "settle_month"


@admin.register(CommissionLine)
class CommissionLineAdmin(HistoryAdmin):
    """What orders earned and refunds took back. Written once, with the books, by the sweep that looks at orders."""

    list_display = (
        "created_at",
        "show_reseller",
        "show_order",
        "show_kind",
        "show_base",
        "show_amount",
        "due_on",
        "show_month",
    )
    list_filter = (SettleMonth, "kind", ("reseller", AutocompleteSelectFilter), "currency", "created_at")
    list_select_related = ("reseller__user", "order")
    search_fields = ("order__number__startswith", "reseller__code", "reseller__user__username")
    search_help_text = gettext_lazy("Order number from its beginning; name or link code of the reseller")
    ordering = ("-id",)
    fields = (
        ("show_reseller", "show_order", "show_refund"),
        ("show_kind", "show_why"),
        ("show_base", "show_rates", "show_amount"),
        ("created_at", "due_on", "show_month"),
    )
    readonly_fields = (
        "show_reseller",
        "show_order",
        "show_refund",
        "show_kind",
        "show_why",
        "show_base",
        "show_rates",
        "show_amount",
        "show_month",
    )

    @display(description=gettext_lazy("reseller"))
    def show_reseller(self, line: CommissionLine) -> str:
        """With a link."""
        return link(change_url(line.reseller), line.reseller)

    @display(description=gettext_lazy("order"))
    def show_order(self, line: CommissionLine) -> str:
        """With a link."""
        return link(change_url(line.order), line.order)

    @display(description=gettext_lazy("refund"), empty_value="–")
    def show_refund(self, line: CommissionLine) -> str | None:
        """With a link."""
        return link(change_url(line.refund), line.refund) if line.refund else None

    @display(description=gettext_lazy("kind"), ordering="kind")
    def show_kind(self, line: CommissionLine) -> str:
        """The kind, coloured."""
        return badge(line.get_kind_display(), KIND_COLOURS[line.kind])

    @display(description=gettext_lazy("why"), empty_value="–")
    def show_why(self, line: CommissionLine) -> str | None:
        """Why it earned nothing."""
        return why_in_words(line.why) if line.why else None

    @display(description=gettext_lazy("of"))
    def show_base(self, line: CommissionLine) -> str:
        """What was received or given back."""
        return amount(line.base, line.currency)

    @display(description=gettext_lazy("rates"))
    def show_rates(self, line: CommissionLine) -> str:
        """Of each thing in the order that earns."""
        parts = [f"{percent(rate['basis_points'])} × {amount(rate['of'], line.currency)}" for rate in line.rates]
        return enumeration(parts) or "–"

    @display(description=gettext_lazy("commission"), ordering="amount")
    def show_amount(self, line: CommissionLine) -> str:
        """With its currency."""
        return amount(line.amount, line.currency)

    @display(description=gettext_lazy("settled with"), ordering="settle_month")
    def show_month(self, line: CommissionLine) -> str:
        """The month whose run settles it."""
        return f"{line.settle_month:%Y-%m}"


@admin.register(Suspicion)
class SuspicionAdmin(HistoryAdmin):
    """Orders that may be the reseller's own. They earn nothing until a person has looked."""

    list_display = ("created_at", "show_order", "show_buyer", "show_reseller", "show_signals", "show_state", "actor")
    list_filter = ("state", ("reseller", AutocompleteSelectFilter), "created_at")
    list_select_related = ("order__user", "reseller__user", "actor")
    search_fields = ("order__number__startswith", "reseller__code", "reseller__user__username", "order__user__username")
    search_help_text = gettext_lazy("Order number from its beginning; name of the customer or the reseller; link code")
    ordering = ("-id",)
    actions_detail = ("clear", "confirm")
    fields = (
        ("show_order", "show_total", "show_buyer", "show_reseller"),
        "show_signals",
        ("show_state", "created_at"),
        ("actor", "decided_at", "reason"),
    )
    readonly_fields = ("show_order", "show_total", "show_buyer", "show_reseller", "show_signals", "show_state")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Suspicion]:
        """With what a page names."""
        queryset: QuerySet[Suspicion] = super().get_queryset(request)
        return queryset.select_related("order__user", "reseller__user", "actor")

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Until it is decided."""
        if not Suspicion.objects.filter(pk=object_id, state=Suspicion.State.OPEN).exists():
            return []
        return list(super().get_actions_detail(request, object_id))

    @display(description=gettext_lazy("order"))
    def show_order(self, suspicion: Suspicion) -> str:
        """With a link."""
        return link(change_url(suspicion.order), suspicion.order)

    @display(description=gettext_lazy("received"))
    def show_total(self, suspicion: Suspicion) -> str:
        """What came for the order."""
        return amount(suspicion.order.received, suspicion.order.currency)

    @display(description=gettext_lazy("customer"))
    def show_buyer(self, suspicion: Suspicion) -> str:
        """With a link."""
        return link(change_url(suspicion.order.user), suspicion.order.user) if suspicion.order.user else "–"

    @display(description=gettext_lazy("reseller"))
    def show_reseller(self, suspicion: Suspicion) -> str:
        """With a link."""
        return link(change_url(suspicion.reseller), suspicion.reseller)

    @display(description=gettext_lazy("what speaks for it"))
    def show_signals(self, suspicion: Suspicion) -> str:
        """In words."""
        return signals_in_words(suspicion.signals)

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, suspicion: Suspicion) -> str:
        """The state, coloured."""
        return badge(suspicion.get_state_display(), SUSPICION_COLOURS[suspicion.state])

    @action(
        description=gettext_lazy("Let it earn"),
        url_path="clear",
        icon="check_circle",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def clear(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Nothing is wrong with it."""
        suspicion: Suspicion = self.row_or_404(request, object_id)
        question = Question(
            title=_("Let order %(order)s earn for %(reseller)s?") % _named(suspicion),
            lines=[
                signals_in_words(suspicion.signals),
                _("It earns what it would have earned on the day it was paid, less what was given back since."),
            ],
            form=ReasonForm(data_of(request)),
            button=_("Let it earn"),
            back=change_url(suspicion),
        )
        told = _("Order %(order)s earns for %(reseller)s.")
        return self._decide(request, question, suspicion, services.clear, told)

    @action(
        description=gettext_lazy("It earns nothing"),
        url_path="confirm",
        icon="money_off",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def confirm(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """It is the reseller's own, or goes in a circle."""
        suspicion: Suspicion = self.row_or_404(request, object_id)
        question = Question(
            title=_("Let order %(order)s earn nothing?") % _named(suspicion),
            lines=[
                signals_in_words(suspicion.signals),
                _("%(reseller)s gets no commission of it, for good. The order itself goes on as it is.")
                % _named(suspicion),
            ],
            form=ReasonForm(data_of(request)),
            button=_("It earns nothing"),
            back=change_url(suspicion),
            is_dangerous=True,
        )
        told = _("Order %(order)s earns nothing.")
        return self._decide(request, question, suspicion, services.confirm, told)

    def _decide(
        self, request: HttpRequest, question: Question, suspicion: Suspicion, service: Callable[..., Any], told: str
    ) -> HttpResponseBase:
        form = question.form
        assert form is not None

        def do() -> str:
            service(suspicion_id=suspicion.pk, reason=form.cleaned_data["reason"], actor=actor(request))
            return told % _named(suspicion)

        return act(self, request, question, do)


def _named(suspicion: Suspicion) -> dict[str, str]:
    order: Order = suspicion.order
    return {"order": order.number, "reseller": str(suspicion.reseller)}
