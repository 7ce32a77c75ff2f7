"""What operators do with one server. Everything that changes something says first what will happen."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.errors import PortalError
from derp_portal.lib.wording import statements
from fleet import services
from fleet.models import Evacuation, Server
from fleet.runtimes.base import RuntimeFailure
from fleet.services.port_checks import PortCheck
from fleet.words import advice, trouble

from .base import OperatorAdmin, actor, change_url, list_url, size
from .enrolment import hand_out_script


class AddressForm(forms.Form):
    """Where the host is now."""

    ip = forms.GenericIPAddressField(label=gettext_lazy("New IP address"), widget=UnfoldAdminTextInputWidget)


class GoneForm(forms.Form):
    """Whether a host that does not answer is worth waiting for."""

    is_gone_for_good = forms.BooleanField(
        label=gettext_lazy("This host is gone for good"),
        required=False,
        help_text=gettext_lazy(
            "It will never answer again, so what may still run there is given up. Should it come back after all, "
            "its relays stop at their deadline."
        ),
        widget=UnfoldBooleanSwitchWidget,
    )


def why_it_failed(failure: RuntimeFailure) -> str:
    """What is wrong with the host, what the engine said, and what can be done about it."""
    return " ".join(filter(None, (trouble(failure.code), failure.detail, advice(failure.code))))


def _said(refusal: ValidationError) -> PortalError:
    return PortalError(" ".join(refusal.messages), code="invalid")


class ServerActions(OperatorAdmin):
    """The actions on a server's page, and those above the list."""

    actions_list = ("fail_over_all", "enrol_new")
    actions_detail = (
        "test_connection",
        {
            "title": gettext_lazy("Move relays off"),
            "icon": "moving",
            "items": ["drain", "end_drain", "fail_over"],
        },
        {
            "title": gettext_lazy("Network"),
            "icon": "lan",
            "items": ["check_ports", "change_address", "enrolment_script"],
        },
    )

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Either to begin a drain or to end it."""
        is_draining = Server.objects.filter(pk=object_id, is_draining=True).exists()
        needless = "fleet_server_drain" if is_draining else "fleet_server_end_drain"
        offered = super().get_actions_detail(request, object_id)
        return [one for one in offered if one.action_name != needless]

    @action(
        description=gettext_lazy("Test connection"),
        url_path="test-connection",
        icon="network_check",
        permissions=["act"],
    )
    def test_connection(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask the host about itself and say in words what came of it."""
        server: Server = self.row_or_404(request, object_id)
        try:
            info = services.look_at_server(server_id=server.pk)
        except RuntimeFailure as failure:
            messages.error(request, why_it_failed(failure))
        else:
            said = _("%(server)s answers: %(engine)s %(version)s, %(cores)s cores, %(memory)s memory.")
            told = {"engine": info.engine, "version": info.version, "cores": info.cores}
            messages.success(request, said % {"server": server.name, "memory": size(info.memory_bytes), **told})
        return redirect(change_url(server))

    @action(description=gettext_lazy("Drain"), url_path="drain", icon="output", permissions=["act"])
    def drain(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Empty it gently."""
        server: Server = self.row_or_404(request, object_id)

        def do() -> HttpResponseBase:
            return self._follow(request, services.drain_server(server_id=server.pk, actor=actor(request)))

        question = Question(
            title=_("Drain %(server)s?") % {"server": server.name},
            lines=[
                _affected(server),
                _(
                    "It takes no new relays. Those it has move off a few at a time, and each goes on serving until the "
                    "new one answers."
                ),
                _("Quarantined relays stay. You can end the drain at any time; what has left stays where it went."),
            ],
            button=_("Drain"),
            back=change_url(server),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("End drain"), url_path="end-drain", icon="input", permissions=["act"])
    def end_drain(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Let it take relays again."""
        server: Server = self.row_or_404(request, object_id)

        def do() -> str:
            services.end_drain(server_id=server.pk, actor=actor(request))
            return _("The drain of %(server)s has ended.") % {"server": server.name}

        question = Question(
            title=_("End the drain of %(server)s?") % {"server": server.name},
            lines=[
                _("It takes relays again. What has not left yet stays; what has left does not come back by itself.")
            ],
            button=_("End drain"),
            back=change_url(server),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Fail over"), url_path="fail-over", icon="emergency_share", permissions=["act"])
    def fail_over(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Move everything off it now, once the plan was read."""
        return self._fail_over(request, self.row_or_404(request, object_id))

    @action(
        description=gettext_lazy("Fail over all lost servers"),
        url_path="fail-over-all",
        icon="emergency_share",
        permissions=["act"],
    )
    def fail_over_all(self, request: HttpRequest) -> HttpResponseBase:
        """The same for every server that does not answer."""
        return self._fail_over(request, None)

    def _fail_over(self, request: HttpRequest, server: Server | None) -> HttpResponseBase:
        server_id = server.pk if server else None

        def do() -> HttpResponseBase:
            begun = services.fail_over(server_id=server_id, actor=actor(request))
            if len(begun) == 1:
                return self._follow(request, begun[0])
            told = ngettext("%(count)s failover has begun.", "%(count)s failovers have begun.", len(begun))
            messages.success(request, told % {"count": len(begun)})
            return redirect(list_url(Evacuation, state__exact=Evacuation.State.RUNNING))

        question = Question(
            title=_("Fail over %(server)s?") % {"server": server.name} if server else _("Fail over all lost servers?"),
            lines=[
                _(
                    "Every relay gets a new place now and keeps its identity. Maps that are polled follow by "
                    "themselves."
                ),
                _("This is the plan as of now. Other servers may be found by then."),
            ],
            button=_("Fail over"),
            back=change_url(server) if server else list_url(Server),
            is_dangerous=True,
        )
        answer = act(self, request, question, do)
        if isinstance(answer, TemplateResponse):
            plan = services.plan_failover(server_id=server_id)
            stays = [(planned, trouble(planned.reason)) for planned in plan if planned.to is None]
            moves = [planned for planned in plan if planned.to is not None]
            answer.template_name = "admin/fleet/failover_plan.html"
            answer.context_data = {**(answer.context_data or {}), "moves": moves, "stays": stays}
        return answer

    def _follow(self, request: HttpRequest, evacuation: Evacuation) -> HttpResponseBase:
        messages.success(request, _("It has begun. This page follows it."))
        return redirect(change_url(evacuation))

    @action(
        description=gettext_lazy("Change address"), url_path="change-address", icon="edit_road", permissions=["act"]
    )
    def change_address(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The same host, with the same relays, is found elsewhere."""
        server: Server = self.row_or_404(request, object_id)
        form = AddressForm(data_of(request))

        def do() -> str:
            try:
                services.update_server(server_id=server.pk, actor=actor(request), ip=form.cleaned_data["ip"])
            except ValidationError as refusal:
                raise _said(refusal) from refusal
            return _("%(server)s is at %(ip)s from now on.") % {"server": server.name, "ip": form.cleaned_data["ip"]}

        question = Question(
            title=_("Change the address of %(server)s") % {"server": server.name},
            lines=[
                _affected(server),
                _(
                    "Every map names the new address at once. Maps that were pasted have to be pasted again: their "
                    "owners are told which line changed as soon as the relay answers there."
                ),
                _(
                    "Use this when the provider gave the same machine another address (now %(ip)s). An engine address "
                    "that names the old one follows; a TLS certificate for it may have to be issued again, with a new "
                    "enrolment script."
                )
                % {"ip": server.ip},
            ],
            form=form,
            button=_("Change address"),
            back=change_url(server),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Check ports"), url_path="check-ports", icon="lan", permissions=["act"])
    def check_ports(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Whether customers get through to it, tried from another server of the fleet."""
        server: Server = self.row_or_404(request, object_id)

        def do() -> HttpResponseBase:
            try:
                result = services.check_ports(server_id=server.pk, actor=actor(request))
            except RuntimeFailure as failure:
                messages.error(request, why_it_failed(failure))
            else:
                is_open = result.tcp_ok and result.udp_ok
                messages.add_message(request, messages.SUCCESS if is_open else messages.ERROR, _found(server, result))
            return redirect(change_url(server))

        question = Question(
            title=_("Check the ports of %(server)s?") % {"server": server.name},
            lines=[
                _("A free port of its range is opened for a moment and tried from another server, over TCP and UDP."),
                _("This takes up to half a minute. Relays are not touched."),
            ],
            button=_("Check ports"),
            back=change_url(server),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Enrolment script"), url_path="enrolment-script", icon="terminal", permissions=["act"]
    )
    def enrolment_script(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The script that prepares this very host."""
        return hand_out_script(self, request, self.row_or_404(request, object_id))

    @action(
        description=gettext_lazy("Enrolment script"), url_path="enrolment-script", icon="terminal", permissions=["act"]
    )
    def enrol_new(self, request: HttpRequest) -> HttpResponseBase:
        """The script for a host that is not in the portal yet."""
        return hand_out_script(self, request)

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """Ask, then let the service delete it if it is empty. To Django's own page released relays are a bar."""
        server: Server = self.row_or_404(request, object_id)
        if not self.has_delete_permission(request, server):
            raise PermissionDenied
        form = GoneForm(data_of(request)) if server.status == Server.Status.UNHEALTHY else None

        def do() -> HttpResponseBase:
            is_gone = form is not None and form.cleaned_data["is_gone_for_good"]
            services.delete_server(server_id=server.pk, is_gone_for_good=is_gone, actor=actor(request))
            messages.success(request, _("%(server)s was deleted.") % {"server": server.name})
            return redirect(list_url(Server))

        question = Question(
            title=_("Delete the server %(server)s?") % {"server": server.name},
            lines=[
                _("The portal forgets how to reach it and its ports. Nothing on the host itself is touched."),
                _("Relays that were there before keep their history. A server that still carries relays stays."),
            ],
            form=form,
            button=_("Delete"),
            back=change_url(server),
            is_dangerous=True,
        )
        return act(self, request, question, do)


def _affected(server: Server) -> str:
    """How many relays there are, and whose."""
    live = server.relays.filter(released_at=None)
    relays, customers = live.count(), live.values("owner").distinct().count()
    if not relays:
        return _("No relay is there now.")
    first = ngettext("%(count)s relay is there now", "%(count)s relays are there now", relays) % {"count": relays}
    second = ngettext("of %(count)s customer.", "of %(count)s customers.", customers) % {"count": customers}
    return f"{first} {second}"


def _found(server: Server, result: PortCheck) -> str:
    """What came of a port check, and where to look first when it failed."""
    named = {"server": server.name, "port": result.port, "seen_from": result.seen_from.name}
    if result.tcp_ok and result.udp_ok:
        return _("Port %(port)s of %(server)s can be reached from %(seen_from)s over TCP and UDP.") % named
    failed = {"TCP": (result.tcp_ok, result.tcp_error), "UDP": (result.udp_ok, result.udp_error)}
    silent = _("no answer")
    words = statements(f"{name}: {error or silent}" for name, (is_ok, error) in failed.items() if not is_ok)
    closed = _("Port %(port)s of %(server)s cannot be reached from %(seen_from)s.") % named
    hint = _(
        "The commonest reason is the provider's security group or firewall: open TCP and UDP %(first)s to %(last)s "
        "there."
    )
    return f"{closed} {words}. " + hint % {"first": server.port_first, "last": server.port_last}
