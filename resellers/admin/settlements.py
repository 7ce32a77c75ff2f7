"""The desk of settlements: what a month came to, approved and then paid, or rejected and carried over."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import BooleanField, QuerySet, Sum, Value
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.utils.html import format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from accounts.services import record
from billing.admin.forms import ReasonForm
from billing.admin.words import amount
from derp_portal.lib import money
from derp_portal.lib.asking import Question, act, act_on_selection, data_of
from derp_portal.lib.errors import PortalError
from derp_portal.lib.wording import enumeration
from fleet.admin.base import HistoryAdmin, actor, badge, change_url, link, list_url
from resellers import services
from resellers.models import CommissionLine, Settlement
from resellers.paper import statement_pdf
from resellers.selectors import lines_of

from .earnings import MonthFilter
from .forms import PaidForm
from .people import PAYS
from .words import payout_of

State = Settlement.State
STATE_COLOURS: dict[str, str] = {
    State.OPEN: "info",
    State.APPROVED: "warning",
    State.PAID: "success",
    State.REJECTED: "danger",
    State.CARRIED: "",
}
OFFERED = {
    "approve": (State.OPEN,),
    "paid": (State.APPROVED,),
    "reject": (State.OPEN, State.APPROVED),
}
SHOWN = 50
"""So many of a settlement's commissions are on its page; a good reseller has thousands."""


@admin.register(Settlement)
class SettlementAdmin(HistoryAdmin):
    """What is due to resellers. One for each month and currency; no amount is ever edited."""

    list_display = (
        "show_month",
        "show_reseller",
        "show_state",
        "show_amount",
        "show_carried_in",
        "show_payable",
        "lines",
        "payout_reference",
        "paid_at",
    )
    list_display_links = ("show_month",)
    list_filter = (MonthFilter, "state", ("reseller", AutocompleteSelectFilter), "currency")
    list_select_related = ("reseller__user",)
    search_fields = ("reseller__code", "reseller__user__username", "payout_reference__startswith")
    search_help_text = gettext_lazy("Name or link code of the reseller; the beginning of a payment's reference")
    ordering = ("-month", "-id")
    actions = ("approve_chosen",)
    actions_list = ("run_months",)
    actions_detail = ("approve", "paid", "reject", "statement")
    change_form_outer_after_template = "admin/resellers/settlement_lines.html"
    fields = (
        ("show_reseller", "show_month", "show_state"),
        ("show_amount", "show_carried_in", "show_payable"),
        ("show_carried_from", "carried_to"),
        "show_payout",
        ("approved_by", "approved_at"),
        ("paid_by", "paid_at", "payout_reference"),
        ("rejected_at", "reason"),
        ("created_at", "told_at"),
    )
    readonly_fields = (
        "show_reseller",
        "show_month",
        "show_state",
        "show_amount",
        "show_carried_in",
        "show_payable",
        "show_carried_from",
        "show_payout",
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Settlement]:
        """Without bank details, and with whether this reader may read them."""
        queryset: QuerySet[Settlement] = super().get_queryset(request)
        named = queryset.select_related("reseller__user", "approved_by", "paid_by").defer("reseller__payout_details")
        return named.annotate(may_read=Value(request.user.has_perm(PAYS), BooleanField()))

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With the commissions it is made of."""
        settlement = Settlement.objects.filter(pk=object_id).first() if object_id.isdecimal() else None
        more: dict[str, Any] = {}
        if settlement:
            lines = lines_of(settlement)[:SHOWN]
            more = {
                "settled": [
                    (line, amount(line.base, line.currency), amount(line.amount, line.currency)) for line in lines
                ],
                "settled_count": settlement.lines,
                "settled_url": lines_url(settlement),
            }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only what makes sense for the settlement as it is."""
        settlement = Settlement.objects.filter(pk=object_id).first()
        if settlement is None:
            return []
        fits = {f"resellers_settlement_{name}": settlement.state in states for name, states in OFFERED.items()}
        return [one for one in super().get_actions_detail(request, object_id) if fits.get(one.action_name, True)]

    def has_run_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Running a month makes settlements; rows are never added otherwise."""
        return bool(request.user.has_perm("resellers.add_settlement"))

    def has_look_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever may open the page may have it on paper."""
        return bool(self.has_view_permission(request))

    @display(description=gettext_lazy("month"), ordering="month")
    def show_month(self, settlement: Settlement) -> str:
        """Of the operator's calendar."""
        return f"{settlement.month:%Y-%m}"

    @display(description=gettext_lazy("reseller"))
    def show_reseller(self, settlement: Settlement) -> str:
        """With a link."""
        return link(change_url(settlement.reseller), settlement.reseller)

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, settlement: Settlement) -> str:
        """The state, coloured."""
        return badge(settlement.get_state_display(), STATE_COLOURS[settlement.state])

    @display(description=gettext_lazy("of the month"), ordering="amount")
    def show_amount(self, settlement: Settlement) -> str:
        """With its currency."""
        return amount(settlement.amount, settlement.currency)

    @display(description=gettext_lazy("carried in"))
    def show_carried_in(self, settlement: Settlement) -> str:
        """What was left of months before."""
        return amount(settlement.carried_in, settlement.currency)

    @display(description=gettext_lazy("payable"), ordering="payable")
    def show_payable(self, settlement: Settlement) -> str:
        """What it comes to."""
        return amount(settlement.payable, settlement.currency)

    @display(description=gettext_lazy("carried from"), empty_value="–")
    def show_carried_from(self, settlement: Settlement) -> str | None:
        """The settlements that were carried into this one."""
        earlier = settlement.carried_from.select_related("reseller__user").order_by("month")
        return format_html_join(" · ", "{}", ((link(change_url(one), one),) for one in earlier)) or None

    @display(description=gettext_lazy("payout"))
    def show_payout(self, settlement: Any) -> str:
        """Where to pay, for those who pay."""
        return payout_of(settlement.reseller, may_read=settlement.may_read)

    @action(
        description=gettext_lazy("Approve"),
        url_path="approve",
        icon="task_alt",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """It may be paid."""
        settlement: Settlement = self.row_or_404(request, object_id)

        def do() -> str:
            services.approve_settlement(settlement_id=settlement.pk, actor=actor(request))
            return _("The settlement of %(reseller)s for %(month)s is approved.") % _named(settlement)

        question = Question(
            title=_("Approve %(amount)s for %(reseller)s, %(month)s?") % _named(settlement),
            lines=[_("Nothing is paid yet: send the money, then say so with “I have paid it”.")],
            button=_("Approve"),
            back=change_url(settlement),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("I have paid it"),
        url_path="paid",
        icon="done_all",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def paid(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """A person has sent the money."""
        settlement: Settlement = self.row_or_404(request, object_id)
        form = PaidForm(data_of(request))

        def do() -> str:
            reference = form.cleaned_data["reference"]
            services.pay_settlement(settlement_id=settlement.pk, reference=reference, actor=actor(request))
            return _("The settlement of %(reseller)s for %(month)s is paid.") % _named(settlement)

        question = Question(
            title=_("Has %(amount)s been paid to %(reseller)s?") % _named(settlement),
            lines=[
                payout_of(settlement.reseller, may_read=request.user.has_perm(PAYS)),
                _("Only say so when the money has left: it is booked as gone, and the reseller is told by e-mail."),
                _("The portal sends no money here itself."),
            ],
            form=form,
            button=_("I have paid it"),
            back=change_url(settlement),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Reject"),
        url_path="reject",
        icon="undo",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Not now: it is carried into the next month."""
        settlement: Settlement = self.row_or_404(request, object_id)
        form = ReasonForm(data_of(request))

        def do() -> str:
            reason = form.cleaned_data["reason"]
            services.reject_settlement(settlement_id=settlement.pk, reason=reason, actor=actor(request))
            return _("The settlement of %(reseller)s for %(month)s is rejected.") % _named(settlement)

        question = Question(
            title=_("Do not pay %(amount)s to %(reseller)s?") % _named(settlement),
            lines=[
                _("It is not lost: it is carried into the run of the next month."),
                _("The reseller is told by e-mail, with what you write here."),
            ],
            form=form,
            button=_("Reject"),
            back=change_url(settlement),
            is_dangerous=True,
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Statement"), url_path="statement", icon="picture_as_pdf", permissions=["look"])
    def statement(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """What the reseller gets on paper."""
        settlement: Settlement = self.row_or_404(request, object_id)
        paper = statement_pdf(settlement, shows_account=request.user.has_perm(PAYS))
        response = HttpResponse(paper, content_type="application/pdf")
        name = f"{settlement.reseller.code}-{settlement.month:%Y-%m}-{settlement.currency}.pdf"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    @action(description=gettext_lazy("Approve"), permissions=["act"])
    def approve_chosen(self, request: HttpRequest, queryset: QuerySet[Settlement]) -> HttpResponseBase:
        """Approve those of the chosen that wait for it, after asking."""
        waiting = queryset.filter(state=State.OPEN)
        count = waiting.count()

        def do() -> str:
            done = 0
            for settlement_id in list(waiting.order_by("id").values_list("pk", flat=True)):
                try:
                    services.approve_settlement(settlement_id=settlement_id, actor=actor(request))
                    done += 1
                except PortalError as refusal:
                    # Somebody was faster with this one.
                    messages.error(request, str(refusal))
            told = ngettext("%(count)d settlement is approved.", "%(count)d settlements are approved.", done)
            return told % {"count": done}

        chosen = ngettext("%(count)d settlement is to be approved", "%(count)d settlements are to be approved", count)
        sums = waiting.order_by("currency").values_list("currency").annotate(payable=Sum("payable"))
        amounts = enumeration(money.for_people(payable, currency) for currency, payable in sums)
        question = Question(
            title=_("Approve these settlements?"),
            lines=[
                f"{chosen % {'count': count}}: {amounts or '–'}.",
                _("Those that are approved, paid, rejected or carried over already stay as they are."),
                _("Nothing is paid yet."),
            ],
            button=_("Approve"),
            back=request.get_full_path(),
        )
        return act_on_selection(self, request, question, do)

    @action(
        description=gettext_lazy("Run months that are over"),
        url_path="run",
        icon="event_available",
        variant=ActionVariant.PRIMARY,
        permissions=["run"],
    )
    def run_months(self, request: HttpRequest) -> HttpResponseBase:
        """Settle what has not been settled yet; beat does the same by itself."""

        def do() -> HttpResponseBase:
            made = services.run_months()
            record(actor=actor(request), event="settlements.run", count=made)
            told = ngettext("%(count)d settlement was made.", "%(count)d settlements were made.", made)
            messages.success(request, told % {"count": made})
            return redirect(list_url(Settlement))

        question = Question(
            title=_("Run the months that are over?"),
            lines=[
                _("One settlement is made for each reseller and month that has none yet; those that are there stay."),
                _("A month that was run gets no more commissions: what comes late is settled with the next."),
                _("It happens by itself on the first of the month, too. Twice is fine."),
            ],
            button=_("Run"),
            back=list_url(Settlement),
        )
        return act(self, request, question, do)


def lines_url(settlement: Settlement) -> str:
    """Their list."""
    return list_url(
        CommissionLine,
        month=f"{settlement.month:%Y-%m}",
        reseller__id__exact=settlement.reseller_id,
        currency__exact=settlement.currency,
    )


def _named(settlement: Settlement) -> dict[str, str]:
    return {
        "reseller": str(settlement.reseller),
        "month": f"{settlement.month:%Y-%m}",
        "amount": money.for_people(settlement.payable, settlement.currency),
    }
