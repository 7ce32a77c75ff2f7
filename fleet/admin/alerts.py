"""Alerts: what operators must know of, open ones first."""

from __future__ import annotations

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from derp_portal.lib.asking import Question, act, data_of
from fleet.models import Alert, Server
from fleet.services.alert_words import wording
from fleet.services.alerts import LONGEST_MESSAGE, acknowledge, resolve_by_hand, send_alert

from .base import HistoryAdmin, actor, badge, change_url, link, list_url

SEVERITY_COLOURS: dict[str, str] = {
    Alert.Severity.INFO: "info",
    Alert.Severity.WARNING: "warning",
    Alert.Severity.CRITICAL: "danger",
}


class MessageForm(forms.Form):
    """What operators are to be told."""

    severity = forms.ChoiceField(
        label=gettext_lazy("severity"),
        choices=Alert.Severity.choices,
        initial=Alert.Severity.WARNING,
        widget=UnfoldAdminSelectWidget,
    )
    message = forms.CharField(
        label=gettext_lazy("message"), max_length=LONGEST_MESSAGE, widget=UnfoldAdminTextareaWidget(attrs={"rows": 4})
    )
    server = forms.ModelChoiceField(
        Server.objects.order_by("name"),
        label=gettext_lazy("server"),
        required=False,
        widget=UnfoldAdminSelectWidget,
        help_text=gettext_lazy("The one it is about, if it is about one."),
    )


@admin.register(Alert)
class AlertAdmin(HistoryAdmin):
    """What the portal found wrong. It closes an alert by itself once the cause is gone; people may be quicker."""

    list_display = (
        "show_severity",
        "show_wording",
        "alert_type",
        "show_server",
        "show_state",
        "created_at",
        "resolved_at",
    )
    list_display_links = ("show_wording",)
    list_filter = (
        "resolved",
        ("acknowledged_at", admin.EmptyFieldListFilter),
        "severity",
        "alert_type",
        ("server", RelatedDropdownFilter),
        "created_at",
    )
    list_select_related = ("server",)
    search_fields = ("message", "server__name", "relay__code")
    ordering = ("resolved", "-id")
    actions = ("acknowledge", "resolve")
    actions_list = ("send",)
    fields = (
        ("show_severity", "show_state"),
        "show_wording",
        ("alert_type", "show_server", "relay", "rule"),
        ("created_at", "told_at", "resolved_at"),
        ("acknowledged_at", "acknowledged_by"),
    )
    readonly_fields = ("show_severity", "show_state", "show_wording", "show_server")

    @display(description=gettext_lazy("severity"), ordering="severity")
    def show_severity(self, alert: Alert) -> str:
        """The severity, coloured; calm once it is over."""
        return badge(alert.get_severity_display(), "" if alert.resolved else SEVERITY_COLOURS[alert.severity])

    @display(description=gettext_lazy("what it says"))
    def show_wording(self, alert: Alert) -> str:
        """What it says, in the reader's language."""
        return wording(alert)

    @display(description=gettext_lazy("server"), ordering="server__name", empty_value="–")
    def show_server(self, alert: Alert) -> str | None:
        """With a link."""
        return link(change_url(alert.server), alert.server) if alert.server else None

    @display(description=gettext_lazy("state"), ordering="resolved")
    def show_state(self, alert: Alert) -> str:
        """Whether it goes on, and whether somebody looks into it."""
        if alert.resolved:
            return badge(_("Over"), "success")
        return badge(_("Acknowledged"), "info") if alert.acknowledged_at else badge(_("Open"), "danger")

    @action(description=gettext_lazy("Send an alert"), url_path="send", icon="campaign", permissions=["send"])
    def send(self, request: HttpRequest) -> HttpResponseBase:
        """Tell every operator something by hand."""
        form = MessageForm(data_of(request))
        question = Question(
            title=_("Send an alert to all operators"),
            lines=[_("It reaches them by their channels or by mail, and stays open until somebody resolves it.")],
            button=_("Send"),
            back=list_url(Alert),
            form=form,
        )

        def send() -> str:
            send_alert(**form.cleaned_data, actor=actor(request))
            return _("The alert is on its way.")

        return act(self, request, question, send)

    def has_send_permission(self, request: HttpRequest) -> bool:
        """Of those who may add alerts; rows are never added otherwise."""
        return request.user.has_perm("fleet.add_alert")

    @admin.action(description=gettext_lazy("Acknowledge"), permissions=["act"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """Somebody looks into them: nobody is reminded any more."""
        chosen: list[int] = list(queryset.filter(resolved=False, acknowledged_at=None).values_list("pk", flat=True))
        for alert_id in chosen:
            acknowledge(alert_id=alert_id, actor=actor(request))
        told = ngettext("%(count)s alert was acknowledged.", "%(count)s alerts were acknowledged.", len(chosen))
        messages.success(request, told % {"count": len(chosen)})

    @admin.action(description=gettext_lazy("Resolve"), permissions=["act"])
    def resolve(self, request: HttpRequest, queryset: QuerySet[Alert]) -> None:
        """They were seen to. Should the cause still be there tomorrow, the portal raises them again."""
        chosen: list[int] = list(queryset.filter(resolved=False).values_list("pk", flat=True))
        for alert_id in chosen:
            resolve_by_hand(alert_id=alert_id, actor=actor(request))
        told = ngettext("%(count)s alert was resolved.", "%(count)s alerts were resolved.", len(chosen))
        messages.success(request, told % {"count": len(chosen)})
