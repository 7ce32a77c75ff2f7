"""`manage.py enroll_script`: a shell script that prepares a host, for the operator to read and to run there."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction

from derp_portal.lib.errors import PortalError
from fleet.enrolment.script import ENGINE_PORT, TRANSPORTS, ScriptOptions
from fleet.models import Region
from fleet.services import add_server
from fleet.services.authority import enrolment_script


def port_range(text: str) -> tuple[int, int]:
    """`21000-21999` as a pair of numbers."""
    first, dash, last = text.partition("-")
    if not (dash and first.isdecimal() and last.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range of ports such as 21000-21999")
    return int(first), int(last)


class Command(BaseCommand):
    help = (
        "Print a bash script that prepares a fresh Debian 11-13 or Ubuntu 20.04-24.04 host to run relays. "
        "Send it straight to the host: manage.py enroll_script --address 203.0.113.7 --portal-address 198.51.100.1 "
        "| ssh root@203.0.113.7 bash"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--address", required=True, help="where the portal reaches the host: an IP address or a DNS name")
        add("--name", default="", help="the server's name in the portal")
        add("--region", default="", help="the code of the server's region in the portal")
        add("--ports", type=port_range, default=(21000, 21999), metavar="FIRST-LAST", help="for relays (21000-21999)")
        add("--engine-port", type=int, default=ENGINE_PORT, help="where the engine listens (%(default)s)")
        add(
            "--portal-address",
            nargs="+",
            action="extend",
            default=[],
            metavar="IP",
            help="addresses or networks the portal connects from; nobody else reaches the engine",
        )
        add("--mirror", nargs="+", action="extend", default=[], metavar="URL", help="Docker registry mirrors")
        add(
            "--apt-mirror",
            default="",
            metavar="URL",
            help="the distribution's folder on a mirror",
        )
        add("--transport", choices=TRANSPORTS, default="tls", help="how the portal reaches the engine (%(default)s)")
        add("--no-firewall", action="store_true", help="leave the firewall to yourself")
        add("--add", action="store_true", help="add the server to the portal too; needs --region")

    def handle(self, *args: Any, **options: Any) -> None:
        choices: dict[str, Any] = {
            "address": options["address"],
            "name": options["name"],
            "region": options["region"],
            "ports": options["ports"],
            "engine_port": options["engine_port"],
            "portal_addresses": tuple(options["portal_address"]),
            "mirrors": tuple(options["mirror"]),
            "apt_mirror": options["apt_mirror"],
            "transport": options["transport"],
            "has_firewall": not options["no_firewall"],
            "is_in_portal": options["add"],
        }
        try:
            # A script that was not printed must not leave a server behind, nor a server that was refused a script.
            with transaction.atomic():
                script = enrolment_script(actor=None, **choices)
                if options["add"]:
                    self._add(ScriptOptions(**choices))
        except PortalError as error:
            raise CommandError(str(error)) from error
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        self.stderr.write(self._caution(**options))
        self.stdout.write(script, ending="")

    @staticmethod
    def _add(options: ScriptOptions) -> None:
        try:
            region = Region.objects.get(code=options.region)
        except Region.DoesNotExist:
            known = ", ".join(Region.objects.values_list("code", flat=True)) or "none yet"
            raise CommandError(f"--add needs --region with the code of a region of the portal: {known}") from None
        named = {"name": options.name} if options.name else {}
        add_server(
            actor=None,
            ip=options.address,
            region=region,
            endpoint=options.endpoint,
            port_first=options.ports[0],
            port_last=options.ports[1],
            **named,
        )

    @staticmethod
    def _caution(*, transport: str, address: str, **_options: Any) -> str:
        pipe = f"Send it straight there: manage.py enroll_script ... | ssh root@{address} bash"
        if transport == "ssh":
            return f"This script lets the portal's ssh key into {address}. {pipe}"
        return f"This script holds the private key of {address}: do not keep it, do not show it. {pipe}"
