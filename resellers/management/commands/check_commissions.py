"""`manage.py check_commissions`: whether commissions, settlements and the books say the same."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from resellers.services import check_commissions


class Command(BaseCommand):
    help = "Compare commissions with settlements and the books; exit with 1 and say what differs, if anything does."

    def handle(self, *args: Any, **options: Any) -> None:
        if findings := check_commissions():
            raise CommandError("\n".join(findings), returncode=1)
        self.stdout.write("Commissions, settlements and the books agree.")
