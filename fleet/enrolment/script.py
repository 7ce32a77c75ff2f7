"""The script that prepares a host: what is particular to the host, checked and quoted, in front of `host.sh`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network
from pathlib import Path
from typing import Literal, NoReturn
from urllib.parse import urlsplit

from django.utils.translation import gettext as _

from derp_portal.lib.errors import PortalError

ENGINE_PORT = 2376
EXPORTER_PORT = 9100
SSH_USER = "derp-portal"
TRANSPORTS = ("tls", "ssh")

_BODY = Path(__file__).with_name("host.sh")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
# The last label begins with a letter, or a mistyped IP address would pass for a name.
_DNS_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)+(?=[a-z]){_LABEL}", re.IGNORECASE | re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*/?")
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class ScriptOptions:
    """What the operator chose for a host. `check()` says in words what is wrong with it.

    `address` is the IP address (or DNS name) at which the portal reaches the host, `ports` the first and the last port
    for relays, `portal_addresses` the addresses or networks the portal connects from, `mirrors` are Docker registry
    mirrors, `apt_mirror` is the distribution's folder on a mirror. `name` and `region` are only repeated at the end.
    """

    address: str
    name: str = ""
    region: str = ""
    ports: tuple[int, int] = (21000, 21999)
    engine_port: int = ENGINE_PORT
    portal_addresses: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    apt_mirror: str = ""
    transport: Literal["tls", "ssh"] = "tls"
    has_firewall: bool = True
    is_in_portal: bool = False

    @property
    def endpoint(self) -> str:
        """The engine address to be entered in the portal."""
        host = f"[{self.address}]" if _is_ipv6(self.address) else self.address
        return f"tcp://{host}:{self.engine_port}" if self.transport == "tls" else f"ssh://{SSH_USER}@{host}"

    def check(self) -> None:
        """Raise PortalError `invalid_enrolment` with the `field` that is wrong; nothing else may reach a shell."""
        check_address(self.address)
        self._check_labels()
        self._check_ports()
        if self.transport not in TRANSPORTS:
            _refuse("transport", _("The transport must be tls or ssh."))
        if self.has_firewall and not self.portal_addresses:
            _refuse(
                "portal_addresses",
                _(
                    "Say from which addresses the portal connects to its hosts, so that the firewall lets nobody else "
                    "reach the engine; or leave the firewall to yourself."
                ),
            )
        _networks(self.portal_addresses)
        for mirror in self.mirrors:
            # The engine refuses a mirror with a path.
            _check_url("mirrors", mirror, may_have_path=False)
        if self.apt_mirror:
            _check_url("apt_mirror", self.apt_mirror, may_have_path=True)

    def _check_labels(self) -> None:
        if len(self.name) > _LONGEST_NAME or not self.name.isprintable():
            _refuse("name", _("The name must have at most 80 characters, all of them printable."))
        if self.region and not _WORD.fullmatch(self.region):
            _refuse("region", _("A region's code has letters, digits, hyphens and underscores only."))

    def _check_ports(self) -> None:
        first, last = self.ports
        if not 1024 <= first <= last <= 65535:
            _refuse("ports", _("The port range must lie within 1024 and 65535, first before last."))
        if not 1024 <= self.engine_port <= 65535:
            _refuse("engine_port", _("The engine's port must lie within 1024 and 65535."))
        if self.engine_port == EXPORTER_PORT:
            _refuse("engine_port", _("Port %(port)s belongs to the node exporter.") % {"port": EXPORTER_PORT})
        for port in (self.engine_port, EXPORTER_PORT):
            if first <= port <= last:
                _refuse(
                    "ports",
                    _("The port range must leave out port %(port)s, which the portal itself needs.") % {"port": port},
                )


@dataclass(frozen=True, slots=True)
class HostKeys:
    """What the host is given: for tls the authority and its own certificate, for ssh the portal's public key."""

    ca_pem: str = ""
    cert_pem: str = ""
    key_pem: str = field(default="", repr=False)
    ssh_public_key: str = ""


def enrol_script(options: ScriptOptions, keys: HostKeys) -> str:
    """The whole bash script. It holds the host's private key (tls). Raises PortalError `invalid_enrolment`."""
    options.check()
    networks = _networks(options.portal_addresses)
    wildcard = "[::]" if _is_ipv6(options.address) else "0.0.0.0"  # noqa: S104 - behind TLS and the firewall
    values: dict[str, str | int | list[str]] = {
        "ADDRESS": options.address,
        "SERVER_NAME": options.name,
        "REGION": options.region,
        "ENDPOINT": options.endpoint,
        "IN_PORTAL": _yes(options.is_in_portal),
        "TRANSPORT": options.transport,
        "PORT_FIRST": options.ports[0],
        "PORT_LAST": options.ports[1],
        "ENGINE_PORT": options.engine_port,
        "ENGINE_LISTENS": f"tcp://{wildcard}:{options.engine_port}",
        "FIREWALL": _yes(options.has_firewall),
        "PORTAL_IPV4": _joined(net for net in networks if isinstance(net, IPv4Network)),
        "PORTAL_IPV6": _joined(net for net in networks if isinstance(net, IPv6Network)),
        "MIRRORS": [mirror.rstrip("/") for mirror in options.mirrors],
        "APT_MIRROR": options.apt_mirror.rstrip("/"),
        "CA_PEM": keys.ca_pem.strip(),
        "CERT_PEM": keys.cert_pem.strip(),
        "KEY_PEM": keys.key_pem.strip(),
        "SSH_PUBLIC_KEY": keys.ssh_public_key.strip(),
    }
    return "\n".join([*_opening(), *_assignments(values), _BODY.read_text(encoding="utf-8")])


def check_address(address: str) -> None:
    """Raise PortalError `invalid_enrolment` unless this is an IP address or a DNS name."""
    if not _is_ip(address) and not _DNS_NAME.fullmatch(address):
        _refuse("address", _("The address must be an IP address or a full host name."))


def _opening() -> Iterator[str]:
    yield "#!/usr/bin/env bash"
    yield "# Prepares a Debian or Ubuntu host to run relays for the DERP portal: Docker, time, firewall, node exporter."
    yield "# For tls it holds the private key of this one host: do not keep it where others can read it."
    yield "set -euo pipefail"
    yield ""


def _assignments(values: dict[str, str | int | list[str]]) -> Iterator[str]:
    """Every value is quoted, whatever the checks let through, so the shell sees data only."""
    for name, value in values.items():
        if isinstance(value, list):
            yield f"{name}=({' '.join(map(shlex.quote, value))})"
        else:
            yield f"{name}={shlex.quote(str(value))}"


def _networks(addresses: Iterable[str]) -> list[IPv4Network | IPv6Network]:
    """The addresses as networks, without those that lie within another: nftables refuses overlaps."""
    found: list[IPv4Network | IPv6Network] = []
    for address in addresses:
        try:
            network = ip_network(_without_zone(address))
        except ValueError:
            _refuse(
                "portal_addresses",
                _("%(value)s is neither an IP address nor a network such as 198.51.100.0/24.") % {"value": address},
            )
        if network.prefixlen == 0:
            _refuse(
                "portal_addresses",
                _("%(value)s is everybody. Name the portal's own addresses.") % {"value": address},
            )
        found.append(network)
    return [
        *collapse_addresses(net for net in found if isinstance(net, IPv4Network)),
        *collapse_addresses(net for net in found if isinstance(net, IPv6Network)),
    ]


def _check_url(field: str, url: str, *, may_have_path: bool) -> None:
    refusal = _("%(value)s is not an address such as https://mirror.example.com.") % {"value": url}
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        _refuse(field, refusal)
    # Put together again from what was understood: nothing else may hide in it.
    shown = f"[{host}]" if ":" in host else host
    rebuilt = f"{parts.scheme}://{shown}{f':{port}' if port is not None else ''}{parts.path}"
    is_host = _is_ip(host) or bool(_DNS_NAME.fullmatch(host)) or host == "localhost"
    if parts.scheme not in {"http", "https"} or not is_host or rebuilt.lower() != url.lower():
        _refuse(field, refusal)
    if not _PATH.fullmatch(parts.path):
        _refuse(field, refusal)
    if not may_have_path and parts.path not in {"", "/"}:
        _refuse(field, _("A Docker mirror must be named without a path: %(value)s.") % {"value": url})


def _is_ip(address: str) -> bool:
    try:
        ip_address(_without_zone(address))
    except ValueError:
        return False
    return True


def _without_zone(address: str) -> str:
    """Refuse an IPv6 zone (`fe80::1%eth0`): it means something on one machine only, and may hold any character."""
    if "%" in address:
        raise ValueError("an address with a zone")
    return address


def _is_ipv6(address: str) -> bool:
    return ":" in address


def _joined(networks: Iterable[IPv4Network | IPv6Network]) -> str:
    return ", ".join(str(net.network_address) if net.num_addresses == 1 else str(net) for net in networks)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _refuse(field: str, message: str) -> NoReturn:
    raise PortalError(message, code="invalid_enrolment", field=field)
