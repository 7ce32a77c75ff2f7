"""What trouble is called when people read it. Codes come from runtimes, placement and probes."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

TROUBLE: dict[str, Promise] = {
    # hosts
    "unreachable": _("The server cannot be reached."),
    "timeout": _("The server took too long to answer."),
    "busy": _("The server is too busy."),
    "image_missing": _("The relay image is not on the server and could not be loaded."),
    "image_build_failed": _("The relay image could not be built."),
    "disk_full": _("The server's disk is full."),
    "port_taken": _("The port is taken by another program on the server."),
    "name_taken": _("A container of the same name is in the way."),
    "not_found": _("The container vanished while it was being set up."),
    "not_an_engine": _("Something answers there, but it is not a Docker engine."),
    "invalid_spec": _("The server refused the container's settings."),
    "refused": _("The server refused."),
    "exited": _("The relay keeps stopping by itself."),
    "secret_unreadable": _("The relay's keys cannot be read."),
    # placement
    "no_server": _("No server can take a relay now."),
    "no_room": _("Every server that may take this relay is full."),
    "no_port": _("Every port of the server is taken."),
    # probes
    "denied": _("The door turned the portal's own probe away."),
    "pin_mismatch": _("Another certificate than ours answered."),
    "not_derp": _("What answers is not a DERP relay."),
    "no_packet": _("Packets do not get through the relay."),
    "stun_silent": _("STUN does not answer."),
    "tls_failed": _("TLS with the relay fails."),
    "cert_expired": _("The relay's certificate has ended."),
    "cert_not_yet_valid": _("The relay's certificate is not valid yet."),
    "name_mismatch": _("The relay's certificate is for another name."),
    "reset": _("The relay cut the connection off."),
    "closed": _("The relay closed the connection."),
}


def trouble(code: str) -> str:
    """`code` in the reader's words; an unknown code is shown as it is, "" stays ""."""
    return str(TROUBLE.get(code, code))
