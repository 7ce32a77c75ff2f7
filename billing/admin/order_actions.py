"""What staff do with one order. Everything that changes something says first what will happen."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from billing import services
from billing.gateways import KINDS
from billing.gateways.sandbox import SandboxGateway
from billing.models import (
    Order,
    OrderLine,
    Payment,
    PaymentMethod,
    Refund,
    SoldSerial,
    Transfer,
)
from billing.services.receiving import OPEN_STATES, Taken
from billing.services.refunds import REFUNDABLE
from derp_portal.lib import money
from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.errors import PortalError
from fleet.admin.base import HistoryAdmin, actor, change_url
from serials.models import SerialNumber

from .forms import MoneyField, QuestionForm, ReasonForm, evidence_area
from .words import amount, words_for

BY_HAND = [kind for kind, gateway in KINDS.items() if not gateway.is_automatic]
State = Order.State


class ConfirmForm(QuestionForm):
    """Money that somebody has seen."""

    method = forms.ModelChoiceField(
        PaymentMethod.objects.none(), label=gettext_lazy("Came by"), widget=UnfoldAdminSelectWidget
    )
    transaction_id = forms.CharField(
        label=gettext_lazy("Number of the transfer"),
        max_length=128,
        help_text=gettext_lazy("As the bank or gateway calls it. The same one is never counted twice."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    amount = MoneyField(least=1, label=gettext_lazy("Amount that came"))
    evidence = forms.CharField(
        label=gettext_lazy("What you have seen"),
        max_length=2000,
        help_text=gettext_lazy("Where and when, such as “bank statement of 3 May, line 12”. It stays with the money."),
        widget=evidence_area(),
    )

    payer = forms.CharField(
        label=gettext_lazy("Account that paid"),
        max_length=200,
        required=False,
        help_text=gettext_lazy(
            "Its number, if you see it whole; a name is too little. Only a digest is kept, to know it again when"
            " another customer pays from it."
        ),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any, *, order: Order) -> None:
        begun = order.payments.filter(state=Payment.State.OPEN, method__kind__in=BY_HAND).first()
        initial = {"amount": order.total, "method": begun.method_id if begun else None}
        super().__init__(data, currency=order.currency, initial=initial)
        chosen = self.fields["method"]
        assert isinstance(chosen, forms.ModelChoiceField)
        # Also a gateway's money may be seen in its console only; the test gateway has none.
        real = PaymentMethod.objects.filter(currency=order.currency).exclude(kind=SandboxGateway.kind)
        chosen.queryset = real.order_by("position", "id")


class RefundForm(ReasonForm):
    """How much is given back, and why."""

    amount = MoneyField(least=1, label=gettext_lazy("Amount to give back"))
    takes_back = forms.BooleanField(
        label=gettext_lazy("Take back what was delivered"),
        required=False,
        help_text=gettext_lazy(
            "Giving back all that is left always takes it back. A part does when you say so here: then all codes and"
            " days not yet served go, whatever the amount."
        ),
        widget=UnfoldBooleanSwitchWidget,
    )
    is_sent = forms.BooleanField(
        label=gettext_lazy("The money has gone back already"),
        required=False,
        help_text=gettext_lazy(
            "After a lost dispute, or when you have sent it yourself: then it is written down, and nothing is sent."
        ),
        widget=UnfoldBooleanSwitchWidget,
    )
    # Sent twice, the second is refused: something had been given back since the page was shown.
    seen_refunded = forms.IntegerField(required=False, min_value=0, widget=forms.HiddenInput)
    field_order = ("amount", "takes_back", "is_sent", "reason", "seen_refunded")


class OrderActions(HistoryAdmin):
    """The actions on an order's page."""

    actions_detail = ("confirm", "deliver_again", "refund", "cancel")

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only what makes sense for the order as it is."""
        order = Order.objects.filter(pk=object_id).first()
        if order is None:
            return []
        fits = {
            "billing_order_confirm": order.channel_id is None and order.total > 0,
            "billing_order_cancel": order.state == State.PENDING,
            "billing_order_refund": order.state in REFUNDABLE and order.refundable > 0,
            "billing_order_deliver_again": order.state == State.PAID,
        }
        return [one for one in super().get_actions_detail(request, object_id) if fits.get(one.action_name, True)]

    @action(
        description=gettext_lazy("Confirm a payment"),
        url_path="confirm",
        icon="price_check",
        permissions=["act"],
    )
    def confirm(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Somebody has seen the money."""
        order: Order = self.row_or_404(request, object_id)
        form = ConfirmForm(data_of(request), order=order)

        def do() -> str:
            if order.channel_id is not None:
                raise PortalError(_("The shop was paid for this order, not we."), code="order_of_a_shop")
            taken = services.confirm_by_hand(order_id=order.pk, **form.cleaned_data, actor=actor(request))
            return _outcome(taken)

        lines = [_("It costs %(total)s. Just that sum pays it, and it is delivered at once.") % named(order)]
        if order.state in OPEN_STATES:
            lines.append(_("Another sum is kept as the customer's money until you decide what becomes of it."))
        else:
            lines[0] = _(
                "It is paid already: what came besides is kept as the customer's money until you give it back."
            )
        if order.state in (State.CANCELLED, State.EXPIRED):
            lines.append(_("It was given up meanwhile (%(state)s).") % named(order))
        question = Question(
            title=_("Confirm a payment for order %(order)s") % named(order),
            lines=lines,
            form=form,
            button=_("Confirm"),
            back=change_url(order),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Cancel"),
        url_path="cancel",
        icon="cancel",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Give up an order that is not paid."""
        order: Order = self.row_or_404(request, object_id)
        form = ReasonForm(data_of(request), is_needed=False)

        def do() -> str:
            services.cancel_order(order_id=order.pk, reason=form.cleaned_data["reason"], actor=actor(request))
            return _("Order %(order)s is cancelled.") % named(order)

        question = Question(
            title=_("Cancel order %(order)s of %(buyer)s?") % named(order),
            lines=[
                _("It can be paid no more. A coupon or trial that it had used up can be used again."),
                _("Should money come for it all the same, it is kept for you to decide about."),
            ],
            form=form,
            button=_("Cancel the order"),
            back=change_url(order),
            is_dangerous=True,
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Refund"),
        url_path="refund",
        icon="currency_exchange",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def refund(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Give back money, and take back what was delivered for it."""
        order: Order = self.row_or_404(request, object_id)
        seen = {"amount": order.refundable, "seen_refunded": order.refunded}
        form = RefundForm(data_of(request), currency=order.currency, initial=seen)

        def do() -> str:
            refund = services.refund_order(order_id=order.pk, **form.cleaned_data, actor=actor(request))
            told = {"amount": amount(refund.amount, refund.currency), "refund": refund.number}
            if refund.state == Refund.State.DONE:
                return _("Refund %(refund)s: %(amount)s is written down as given back.") % told
            return _("Refund %(refund)s: %(amount)s will be given back.") % told

        from_balance = _("It goes back at once to the prepaid balance that paid it.")
        way = from_balance if order.is_from_balance else way_back(paid_by(order))
        question = Question(
            title=_("Refund order %(order)s of %(buyer)s") % named(order),
            lines=[*worth(order), *losses(order), way],
            form=form,
            button=_("Give the money back"),
            back=change_url(order),
            is_dangerous=True,
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Deliver again"), url_path="deliver", icon="deployed_code", permissions=["act"])
    def deliver_again(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Try once more what could not be delivered."""
        order: Order = self.row_or_404(request, object_id)

        def do() -> str:
            delivered = services.deliver(order_id=order.pk, actor=actor(request))
            if delivered.state == State.PAID:
                why = {**named(delivered), "why": words_for(delivered.trouble)}
                raise PortalError(_("Order %(order)s still cannot be delivered. %(why)s") % why, code="not_delivered")
            return _("Order %(order)s: %(state)s.") % named(delivered)

        why = words_for(order.trouble) if order.trouble else _("It is delivered by itself within seconds.")
        question = Question(
            title=_("Deliver order %(order)s again?") % named(order),
            lines=[
                why,
                _("All of it is delivered, or nothing. What was delivered before is never delivered twice."),
                _("If it cannot be done, give the money back."),
            ],
            button=_("Deliver"),
            back=change_url(order),
        )
        return act(self, request, question, do)


def named(order: Order) -> dict[str, str]:
    """What sentences about the order say: its number, whose it is, what it costs, its state."""
    return {
        "order": order.number,
        "buyer": str(order.user or order.channel),
        "total": order.total_text,
        "state": str(order.get_state_display()),
    }


def _outcome(taken: Taken) -> str:
    """What became of money that was confirmed."""
    if taken.verdict == "counted":
        return _("The order is paid. It is delivered by itself.")
    if taken.verdict == "repeated":
        raise PortalError(
            _("This transfer is known already; nothing was counted again. %(why)s")
            % {"why": words_for(taken.problem) if taken.problem else ""},
            code="repeated",
        )
    return _("The money is written down and waits for you among the transfers. %(why)s") % {
        "why": words_for(taken.problem)
    }


def worth(order: Order) -> list[str]:
    """What could be given back, and how much of it has not been served by the stated rule."""
    found = services.worth_of(order)
    said = {
        "left": money.for_people(found.refundable, order.currency),
        "unserved": money.for_people(found.unserved, order.currency),
    }
    lines = [_("%(left)s can be given back. Of that %(unserved)s has not been served yet.") % said]
    if found.converted:
        lines.append(
            ngettext(
                "Attention: the days of %(count)d serial were turned into days of another plan. Nothing of them can be "
                "taken back.",
                "Attention: the days of %(count)d serials were turned into days of another plan. Nothing of them can "
                "be taken back.",
                found.converted,
            )
            % {"count": found.converted}
        )
    return lines


def losses(order: Order) -> list[str]:
    """What taking back takes away, in sentences."""
    lines = []
    sold = SoldSerial.objects.filter(line__order=order, taken_back_at=None)
    unused = Q(serial__status=SerialNumber.Status.UNUSED)
    counted = sold.aggregate(unused=Count("id", filter=unused), used=Count("id", filter=Q(serial__user__isnull=False)))
    if order.state == State.PAID:
        lines.append(_("It is not delivered yet. Once all is given back it never will be."))
    if counted["unused"]:
        lost = ngettext(
            "Taking back revokes %(count)d code that nobody has redeemed.",
            "Taking back revokes %(count)d codes that nobody has redeemed.",
            counted["unused"],
        )
        lines.append(lost % {"count": counted["unused"]})
    if counted["used"]:
        lost = ngettext(
            "Taking back takes the days of %(count)d redeemed serial that are not served yet from its lease; a lease "
            "without days ends, and its relays stop at once.",
            "Taking back takes the days of %(count)d redeemed serials that are not served yet from their leases; a "
            "lease without days ends, and its relays stop at once.",
            counted["used"],
        )
        lines.append(lost % {"count": counted["used"]})
    kinds = set(order.lines.values_list("kind", flat=True))
    if OrderLine.Kind.PACK in kinds:
        lines.append(_("Traffic that was bought is not taken back."))
    if OrderLine.Kind.TOP_UP in kinds:
        lines.append(_("It is taken from the prepaid balance again, in any case."))
    return lines


def paid_by(order: Order) -> Transfer | None:
    """The money that a refund goes back to."""
    counted = Transfer.objects.filter(payment__order=order, state=Transfer.State.COUNTED)
    return counted.select_related("method").first()


def way_back(transfer: Transfer | None) -> str:
    """How money is given back, in a sentence."""
    if transfer is None:
        return _("No gateway was paid for it: you send the money yourself, and say so on the refund's page.")
    kind, told = KINDS.get(transfer.method.kind), {"method": transfer.method.local_name}
    if kind is None or not kind.can_refund:
        return _("%(method)s cannot give it back: you send it yourself, and say so on the refund's page.") % told
    return _("%(method)s gives it back by itself. The customer is told by e-mail.") % told
