"""Preparing hosts: the script that an operator runs there, and the authority whose certificates it brings."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.contrib.admin import ModelAdmin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import display
from unfold.widgets import (
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from derp_portal.lib.asking import Question, act, data_of
from fleet.enrolment import pki
from fleet.enrolment.script import ENGINE_PORT
from fleet.models import Authority, Server
from fleet.services.authority import enrolment_script

from .base import HistoryAdmin, actor, change_url, list_url

_FIRST, _LAST = Server().port_first, Server().port_last


class LinesField(forms.CharField):
    """Several values, one a line or with commas between; cleaned to a tuple."""

    widget = UnfoldAdminTextareaWidget(attrs={"rows": 2, "spellcheck": "false"})

    def clean(self, value: Any) -> tuple[str, ...]:
        """The values without spaces and empty lines."""
        return tuple(super().clean(value).replace(",", " ").split())


class EnrolmentForm(forms.Form):
    """What the script is to do. `ScriptOptions` checks the values themselves."""

    address = forms.CharField(
        label=gettext_lazy("Address"),
        help_text=gettext_lazy("The IP address or full host name at which the portal reaches the host."),
        widget=UnfoldAdminTextInputWidget,
    )
    transport = forms.ChoiceField(
        label=gettext_lazy("The portal connects over"),
        choices=[("tls", gettext_lazy("TLS with certificates of the portal's own authority")), ("ssh", "ssh")],
        widget=UnfoldAdminSelectWidget,
    )
    portal_addresses = LinesField(
        label=gettext_lazy("The portal's addresses"),
        required=False,
        help_text=gettext_lazy("From which the portal connects, as the host sees them: one address or network a line."),
    )
    has_firewall = forms.BooleanField(
        label=gettext_lazy("Set up a firewall that lets in relays, ssh and the portal"),
        required=False,
        initial=True,
        widget=UnfoldBooleanSwitchWidget,
    )
    port_first = forms.IntegerField(
        label=gettext_lazy("First port for relays"), initial=_FIRST, widget=UnfoldAdminIntegerFieldWidget
    )
    port_last = forms.IntegerField(
        label=gettext_lazy("Last port for relays"), initial=_LAST, widget=UnfoldAdminIntegerFieldWidget
    )
    engine_port = forms.IntegerField(
        label=gettext_lazy("Port of the engine (TLS)"), initial=ENGINE_PORT, widget=UnfoldAdminIntegerFieldWidget
    )
    mirrors = LinesField(
        label=gettext_lazy("Docker registry mirrors"),
        required=False,
        help_text=gettext_lazy("One address a line, such as https://mirror.example.com."),
    )
    apt_mirror = forms.CharField(
        label=gettext_lazy("Package mirror"),
        required=False,
        help_text=gettext_lazy("The distribution's folder on a mirror; empty = as the host is set up."),
        widget=UnfoldAdminTextInputWidget,
    )

    def __init__(self, data: Any, *, server: Server | None) -> None:
        known = {}
        if server:
            known = {"address": server.ip, "port_first": server.port_first, "port_last": server.port_last}
            known["transport"] = "ssh" if server.endpoint.startswith("ssh://") else "tls"
        super().__init__(data, initial=known)

    def choices(self) -> dict[str, Any]:
        """As `enrolment_script` wants them, but for the address."""
        given = self.cleaned_data
        same = ("transport", "portal_addresses", "has_firewall", "engine_port", "mirrors", "apt_mirror")
        return {"ports": (given["port_first"], given["port_last"]), **{name: given[name] for name in same}}


def hand_out_script(
    model_admin: ModelAdmin[Any], request: HttpRequest, server: Server | None = None
) -> HttpResponseBase:
    """Ask what the script for `server`, or for a host that is yet to be added, should do; then hand it out."""
    form = EnrolmentForm(data_of(request), server=server)

    def do() -> HttpResponseBase:
        address = form.cleaned_data["address"]
        known = {"name": server.name, "region": server.region.code, "is_in_portal": True} if server else {}
        script = enrolment_script(address=address, actor=actor(request), **form.choices(), **known)
        answer = HttpResponse(script, content_type="text/x-shellscript; charset=utf-8")
        answer["Content-Disposition"] = f'attachment; filename="enrol-{slugify(address) or "host"}.sh"'
        return answer

    question = Question(
        title=_("Enrolment script for %(server)s") % {"server": server.name if server else _("a new host")},
        lines=[
            _("It prepares a fresh Debian or Ubuntu machine: Docker, time, firewall, node exporter. Run it as root."),
            _("Read it first; it can be run again at any time, and running relays go on."),
            _("For TLS it holds this host's private key: do not mail it, and delete it once it has run."),
        ],
        form=form,
        button=_("Download the script"),
        back=change_url(server) if server else list_url(Server),
    )
    answer = act(model_admin, request, question, do)
    if isinstance(answer, TemplateResponse):
        answer.template_name = "admin/fleet/enrolment_script.html"
    return answer


@admin.register(Authority)
class AuthorityAdmin(HistoryAdmin):
    """The portal's own authority: what may be public of it. Its keys never leave the database by this page."""

    list_display = ("__str__", "show_fingerprint", "client_ends_at", "created_at")
    fields = ("show_fingerprint", "ca_certificate", "client_ends_at", "ssh_public_key", "created_at")
    readonly_fields = ("show_fingerprint",)

    @display(description=gettext_lazy("fingerprint"))
    def show_fingerprint(self, held: Authority) -> str:
        """To be compared with what is installed on a host."""
        return pki.fingerprint(held.ca_certificate)
