"""`manage.py ensure_this_machine`: the embedded default's one server."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from fleet.services import ensure_this_machine


class Command(BaseCommand):
    help = "Add this machine as a server on the process runtime, if there is no server yet."

    def handle(self, *args: Any, **options: Any) -> None:
        server = ensure_this_machine()
        self.stdout.write(f"server: {server.name} ({server.ip}, {server.runtime})")
