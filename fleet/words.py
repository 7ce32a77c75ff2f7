"""What trouble is called when people read it. Codes come from runtimes, placement, probes and enrolment.

`trouble` is for everybody, customers too: it names no address, path or program. `advice` is for operators.
"""

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
    "connection_refused": _("The server refuses connections."),
    "name_unknown": _("The server's name is not known."),
    "no_socket": _("The server's engine is not running."),
    "no_permission": _("The portal may not use the server's engine."),
    "invalid_endpoint": _("The server's address cannot be used."),
    "insecure_endpoint": _("The server's address is not protected."),
    "engine_too_old": _("The server's engine is too old."),
    "wrong_ca": _("The server could not prove that it is the right one."),
    "wrong_name": _("The server's certificate is for another address."),
    "certificate_expired": _("The server's certificate is not valid at this time."),
    "client_refused": _("The server did not accept the portal's certificate."),
    "bad_credentials": _("The credentials for the server cannot be used."),
    "ssh_denied": _("The server did not accept the portal's key."),
    "host_key_changed": _("The server shows another key than before."),
    "ssh_failed": _("The server answers, but its engine cannot be reached through it."),
    "unsupported": _("The server cannot do this."),
    "pull_failed": _("The relay image could not be fetched from its registry."),
    "registry_denied": _("The registry did not hand out the relay image."),
    "invalid_spec": _("The server refused the container's settings."),
    "refused": _("The server refused."),
    "exited": _("The relay keeps stopping by itself."),
    "secret_unreadable": _("The relay's keys cannot be read."),
    "bad_figures": _("What answers there gives no figures of the server."),
    # enrolment and moves
    "clock_off": _("The server's clock is wrong."),
    "enrolled_twice": _("This server is enrolled already."),
    "foreign_portal": _("The server belongs to another portal. Nothing on it was touched."),
    "host_lost": _("The server does not answer. The relay is being moved to another one."),
    "quarantined": _("The relay is held where it is by the operator."),
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

ADVICE: dict[str, Promise] = {
    "unreachable": _("Check that the machine is up and connected, and that the engine was not restarted just now."),
    "timeout": _("Check the machine's load, its network, and that no firewall drops the portal's packets."),
    "connection_refused": _("Check the port, and that the engine listens there: systemctl status docker."),
    "name_unknown": _("Check the name for typing errors and its DNS entry, or use the IP address."),
    "no_socket": _("Start the engine with systemctl start docker, and check the path of its socket."),
    "no_permission": _("Add the user of the portal, or of the ssh connection, to the group docker on that machine."),
    "invalid_endpoint": _("Use unix:///var/run/docker.sock, tcp://203.0.113.7:2376 or ssh://root@203.0.113.7."),
    "insecure_endpoint": _(
        "Nothing was sent: without certificates anybody on the way could take the machine over. Run the enrolment "
        "script there, paste certificates, or use ssh://."
    ),
    "not_an_engine": _("Check address and port: a web server or another program answers, or a port without TLS."),
    "engine_too_old": _("Install Docker 20.10 or newer on it. Its containers stay."),
    "wrong_ca": _(
        "Its certificate is not signed by the authority given. Paste the authority that signed it, or run the "
        "enrolment script there again. If neither is new, somebody may stand in between."
    ),
    "wrong_name": _("Its certificate must name this very IP address or host name: issue one that does."),
    "certificate_expired": _("Renew it by running the enrolment script there again, and check both clocks."),
    "client_refused": _("The engine trusts another authority than the one that signed the portal's certificate."),
    "bad_credentials": _("Paste the whole PEM text with its BEGIN and END lines, and a key without a password."),
    "ssh_denied": _("Add the portal's public key to the user's ~/.ssh/authorized_keys there, and check the user name."),
    "host_key_changed": _(
        "If the machine was installed anew, clear the host key kept here and test again. If not, somebody may stand "
        "in between: do not connect."
    ),
    "ssh_failed": _("Check that ssh answers on this port and that the docker program is installed there."),
    "image_missing": _("Build the image with the portal, or check the name and tag of the image in its registry."),
    "pull_failed": _("Check that the server reaches the registry, or let the portal bring the image."),
    "registry_denied": _("Check the user and password for the registry."),
    "disk_full": _("Free space where the engine keeps its data, such as with docker image prune."),
    "clock_off": _("Switch on time synchronisation there: timedatectl set-ntp true. Deadlines depend on it."),
    "enrolled_twice": _("It is the same engine under another address: change the address of the server you have."),
    "foreign_portal": _(
        "Remove it from the other portal first. If that portal is gone, remove the volume derp-portal-host there."
    ),
}


def advice(code: str) -> str:
    """What an operator can do about `code`, in the reader's words; "" when there is nothing to say."""
    return str(ADVICE.get(code, ""))


def trouble(code: str) -> str:
    """`code` in the reader's words; an unknown code is shown as it is, "" stays ""."""
    return str(TROUBLE.get(code, code))


OUTBOUND: dict[str, Promise] = {
    "invalid_url": _("This is not an address that can be asked: it should read https://name.example/path."),
    "private_address": _("This address is not on the public Internet, so we cannot ask there."),
    "unreachable": _("Nobody answers at that address."),
    "timeout": _("The answer took too long."),
    "too_large": _("The answer was too long."),
    "denied": _("The credentials were not accepted, or may not read devices."),
    "not_found": _("There is no such tailnet or address."),
    "bad_answer": _("What answers there does not speak the expected language."),
    "empty_answer": _("The list of devices came back empty. Yours were kept."),
    "too_many_devices": _("More devices came back than may be listed. Yours were kept."),
    "conflict": _("The policy file was changed meanwhile. Look at it again."),
    "not_ours": _("The policy file has an entry of that number which we did not write. Choose another region id."),
    "bad_policy_file": _("The policy file cannot be read."),
    "refused_policy": _("The changed policy file was not accepted."),
}


def outbound_words(code: str) -> str:
    """Why asking somewhere on a customer's behalf failed, for that customer."""
    return str(OUTBOUND.get(code, OUTBOUND["bad_answer"]))
