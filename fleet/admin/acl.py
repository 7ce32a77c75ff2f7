"""Access policies of users, version by version, and what the doors answered."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from accounts.models import User
from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.clock import now
from fleet.acl.decision import Mode
from fleet.acl.versions import Policy, current_policy
from fleet.acl.words import MODE_LABELS
from fleet.forms import is_address
from fleet.models import AclConfig, AclLog, ControlServer, Knock, MapPush, Relay, Server
from fleet.services.acl import change_policy, networks_of, roll_back
from fleet.words import outbound_words

from .base import HistoryAdmin, actor, badge, change_url, link, list_url

MODE_COLOURS: dict[str, str] = {
    AclConfig.Mode.CLOSED: "success",
    AclConfig.Mode.LEARN: "info",
    AclConfig.Mode.DELEGATE: "info",
    AclConfig.Mode.OPEN: "warning",
}


class AccessForm(forms.Form):
    """What a policy is to say from now on. Devices stay as they are: they are their owner's."""

    mode = forms.ChoiceField(label=gettext_lazy("Mode"), choices=AclConfig.Mode.choices, widget=UnfoldAdminSelectWidget)
    hours = forms.IntegerField(
        label=gettext_lazy("Learn for"),
        min_value=1,
        max_value=24 * 30,
        initial=24,
        help_text=gettext_lazy("Hours; only for learning."),
        widget=UnfoldAdminIntegerFieldWidget,
    )
    delegate_url = forms.CharField(
        label=gettext_lazy("Address of the verifier"), required=False, max_length=500, widget=UnfoldAdminTextInputWidget
    )
    networks = forms.CharField(
        label=gettext_lazy("Networks"),
        required=False,
        max_length=5000,
        help_text=gettext_lazy("One a line."),
        widget=UnfoldAdminTextareaWidget,
    )
    servers = forms.ModelMultipleChoiceField(
        Server.objects.order_by("name"),
        required=False,
        label=gettext_lazy("Servers allowed"),
        help_text=gettext_lazy("None chosen = every server."),
        widget=UnfoldAdminSelect2MultipleWidget,
    )
    reason = forms.CharField(label=gettext_lazy("Why"), max_length=200, widget=UnfoldAdminTextInputWidget)


@admin.register(AclConfig)
class AclConfigAdmin(HistoryAdmin):
    """Every version of every policy; the highest of a user is in force."""

    list_display = ("created_at", "show_user", "version", "show_mode", "show_devices", "reason", "author")
    list_filter = ("mode", "created_at")
    list_select_related = ("user", "author")
    search_fields = ("=user__username", "=user__email")
    ordering = ("-id",)
    actions_detail = ("change", "set_again")

    @display(description=gettext_lazy("user"), ordering="user__username")
    def show_user(self, version: AclConfig) -> str:
        """With a link."""
        return link(change_url(version.user), version.user)

    @display(description=gettext_lazy("mode"), ordering="mode")
    def show_mode(self, version: AclConfig) -> str:
        """The mode, coloured."""
        return badge(MODE_LABELS[version.mode], MODE_COLOURS[version.mode])

    @display(description=gettext_lazy("devices"))
    def show_devices(self, version: AclConfig) -> int:
        """How many are listed."""
        return len(version.devices)

    @action(description=gettext_lazy("Set again"), url_path="set-again", icon="history", permissions=["act"])
    def set_again(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Make this version the one in force, after asking."""
        version: AclConfig = self.row_or_404(request, object_id)
        question = Question(
            title=_("Set version %(version)s of %(user)s again?") % {"version": version.version, "user": version.user},
            lines=[
                _("It becomes a new version. Devices that are not in it lose their connection."),
                _("One that was learning comes back closed."),
            ],
            button=_("Set again"),
            back=list_url(AclConfig),
        )

        def do() -> str:
            made = roll_back(user_id=version.user_id, version=version.version, actor=actor(request))
            return _("Version %(version)s is in force.") % {"version": made.version}

        return act(self, request, question, do)

    @action(description=gettext_lazy("Change"), url_path="policy", icon="edit", permissions=["act"])
    def change(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Set its user's policy: a new version, whichever one is looked at."""
        owner = self.row_or_404(request, object_id).user
        version = current_policy(owner.pk)
        present = Policy.of(version) if version else Policy()
        form = AccessForm(
            data_of(request),
            initial={
                "mode": present.mode,
                "delegate_url": present.delegate_url,
                "networks": "\n".join(present.networks),
                "servers": present.servers,
            },
        )
        question = Question(
            title=_("Change who may use the relays of %(user)s") % {"user": owner},
            lines=[_("It becomes a new version. Whoever may no longer connect loses the connection.")],
            form=form,
            button=_("Change"),
            back=list_url(AclConfig),
        )

        def do() -> str:
            given = form.cleaned_data
            mode = Mode(given["mode"])
            networks = networks_of(given["networks"])
            made = change_policy(
                user_id=owner.pk,
                change=lambda policy: replace(
                    policy,
                    mode=mode,
                    networks=networks,
                    servers=tuple(sorted(server.pk for server in given["servers"])),
                    learns_until=now() + timedelta(hours=given["hours"]),
                    delegate_url=given["delegate_url"].strip(),
                ),
                reason=given["reason"],
                actor=actor(request),
            )
            return _("Version %(version)s is in force.") % {"version": made.version}

        return act(self, request, question, do)

    def has_act_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """A version is added, never changed."""
        return request.user.has_perm("fleet.add_aclconfig")


@admin.register(AclLog)
class AclLogAdmin(HistoryAdmin):
    """Who knocked at which door, and what it answered."""

    list_display = ("created_at", "show_answer", "reason", "user", "relay", "ip_address", "location", "show_key")
    list_filter = ("is_allowed", "reason", "created_at")
    list_select_related = ("user", "relay")
    search_fields = ("node_key",)
    search_help_text = gettext_lazy("A whole node key, address, user name or relay's code.")
    sortable_by = ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AclLog], search_term: str
    ) -> tuple[QuerySet[AclLog], bool]:
        """What was named is looked up first: joined, the whole log would be gone through."""
        text = search_term.strip()
        if not text:
            return queryset, False
        if text.startswith("nodekey:"):
            return queryset.filter(node_key=text), False
        if is_address(text):
            return queryset.filter(ip_address=text), False
        users = list(User.objects.filter(username=text).values_list("id", flat=True))
        if users:
            return queryset.filter(user__in=users), False
        return queryset.filter(relay__in=list(Relay.objects.filter(code=text).values_list("id", flat=True))), False

    @display(description=gettext_lazy("node key"))
    def show_key(self, line: AclLog) -> str:
        """Its beginning tells it from others; the whole one is on the line's page."""
        return f"{line.node_key[:24]}…"

    @display(description=gettext_lazy("answer"))
    def show_answer(self, line: AclLog) -> str:
        """Let in or not, coloured."""
        return badge(_("Let in"), "success") if line.is_allowed else badge(_("Refused"), "danger")


@admin.register(Knock)
class KnockAdmin(HistoryAdmin):
    """Devices that were turned away and that their owners have not said a word about."""

    list_display = ("last_at", "user", "node_key", "ip_address", "location", "times", "dismissed_at")
    list_filter = ("last_at", "dismissed_at")
    list_select_related = ("user",)
    search_fields = ("=node_key", "=user__username", "=ip_address")


@admin.register(ControlServer)
class ControlServerAdmin(HistoryAdmin):
    """Where lists of devices come from. The credentials are their owners' and stay unread."""

    list_display = ("__str__", "owner", "kind", "device_count", "succeeded_at", "next_run_at", "show_error")
    list_filter = ("kind", "error_code")
    list_select_related = ("owner",)
    search_fields = ("owner__username", "address", "tailnet")
    exclude = ("credential",)

    @display(description=gettext_lazy("what went wrong"))
    def show_error(self, server: ControlServer) -> str:
        """In the words its owner reads."""
        return outbound_words(server.error_code) if server.error_code else "–"


@admin.register(MapPush)
class MapPushAdmin(HistoryAdmin):
    """Maps that stand in their owners' policy files. The files are theirs and stay unread."""

    list_display = ("group", "control_server", "pushed_at", "is_automatic", "next_run_at", "failures", "show_error")
    list_filter = ("is_automatic", "error_code")
    list_select_related = ("group", "control_server")
    search_fields = ("group__owner__username",)
    exclude = ("text_before",)

    @display(description=gettext_lazy("what went wrong"))
    def show_error(self, push: MapPush) -> str:
        """In the words its owner reads."""
        return outbound_words(push.error_code) if push.error_code else "–"
