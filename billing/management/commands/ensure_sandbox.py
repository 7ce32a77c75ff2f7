from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from billing.services.methods import ensure_sandbox


class Command(BaseCommand):
    help = "Offers the built-in test gateway, on the embedded default only, and says so."

    def handle(self, *args: Any, **options: Any) -> None:
        method = ensure_sandbox()
        if method is not None and method.is_enabled:
            self.stdout.write(
                "\n!! Orders can be paid with the built-in TEST GATEWAY, which takes no money.\n"
                "!! Good for trying out, NOT FOR PRODUCTION: switch it off under Payment methods."
            )
