"""What gateways sent, or those who pretend to be one."""

from __future__ import annotations

import ipaddress

from django.contrib import admin
from django.db.models import Max, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from billing.models import GatewayCallback, Payment
from fleet.admin.base import HistoryAdmin, badge, change_url, link

from .words import words_for

VERDICT_COLOURS: dict[str, str] = {
    GatewayCallback.Verdict.COUNTED: "success",
    GatewayCallback.Verdict.REPEATED: "",
    GatewayCallback.Verdict.HELD: "danger",
    GatewayCallback.Verdict.NOTED: "info",
    GatewayCallback.Verdict.REFUSED: "warning",
    GatewayCallback.Verdict.FAILED: "danger",
}
SEARCHED = 20_000
"""So many of the latest callbacks are read through for a word; older ones are found by their payment."""


@admin.register(GatewayCallback)
class GatewayCallbackAdmin(HistoryAdmin):
    """What was sent to the addresses of payment methods, as it came: also what nobody believed."""

    list_display = ("created_at", "method", "show_verdict", "show_reason", "show_payment", "http_method", "ip")
    list_filter = ("verdict", ("method", RelatedDropdownFilter), "created_at")
    list_select_related = ("method", "payment")
    search_fields = ("reason",)
    search_help_text = gettext_lazy(
        "Payment reference or IP address; or a word of what was sent, among the latest 20,000"
    )
    ordering = ("-id",)
    fields = (
        ("created_at", "show_payment"),
        "method",
        ("show_verdict", "show_reason"),
        ("http_method", "ip"),
        "query",
        "show_headers",
        "body",
    )
    readonly_fields = ("show_verdict", "show_reason", "show_payment", "show_headers")

    def get_queryset(self, request: HttpRequest) -> QuerySet[GatewayCallback]:
        """Bodies are long: the list does without."""
        queryset: QuerySet[GatewayCallback] = super().get_queryset(request)
        is_list = request.resolver_match is not None and request.resolver_match.url_name == LIST
        return queryset.defer("body", "query", "headers") if is_list else queryset

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[GatewayCallback], search_term: str
    ) -> tuple[QuerySet[GatewayCallback], bool]:
        """By payment and sender at once; through what was sent only as far back as is quick."""
        text = search_term.strip()
        if not text:
            return queryset, False
        payments = list(Payment.objects.filter(reference=text.upper()).values_list("pk", flat=True))
        if payments:
            return queryset.filter(payment__in=payments), False
        latest = GatewayCallback.objects.aggregate(latest=Max("pk"))["latest"] or 0
        words = Q(body__icontains=text) | Q(query__icontains=text) | Q(reason__iexact=text)
        return queryset.filter(words | _sent_from(text), pk__gt=latest - SEARCHED), False

    @display(description=gettext_lazy("verdict"), ordering="verdict")
    def show_verdict(self, callback: GatewayCallback) -> str:
        """What was made of it, coloured."""
        return badge(callback.get_verdict_display(), VERDICT_COLOURS[callback.verdict])

    @display(description=gettext_lazy("reason"), empty_value="–")
    def show_reason(self, callback: GatewayCallback) -> str | None:
        """In words."""
        return words_for(callback.reason) if callback.reason else None

    @display(description=gettext_lazy("payment"), empty_value="–")
    def show_payment(self, callback: GatewayCallback) -> str | None:
        """With a link."""
        return link(change_url(callback.payment), callback.payment) if callback.payment else None

    @display(description=gettext_lazy("headers"), empty_value="–")
    def show_headers(self, callback: GatewayCallback) -> str | None:
        """One a line."""
        return "\n".join(f"{name}: {value}" for name, value in callback.headers.items()) or None


LIST = "billing_gatewaycallback_changelist"


def _sent_from(text: str) -> Q:
    """By the sender's address, if the text is one: databases take nothing else there."""
    try:
        return Q(ip=str(ipaddress.ip_address(text)))
    except ValueError:
        return Q(pk__in=[])
