"""`manage.py run_commissions`: settle a month that is over, or all of them."""

from __future__ import annotations

from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing.finance.days import month_named
from derp_portal.lib.errors import PortalError
from resellers import services


class Command(BaseCommand):
    help = "Settle what resellers earned in a month that is over; without --month, in all that are. Twice is fine."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--month", metavar="YYYY-MM", help="this month of the operator's calendar only")

    def handle(self, *args: Any, **options: Any) -> None:
        month = _month(options["month"]) if options["month"] else None
        try:
            made = services.run_month(month=month) if month else services.run_months()
        except PortalError as refusal:
            raise CommandError(str(refusal), returncode=1) from refusal
        self.stdout.write("1 settlement was made." if made == 1 else f"{made} settlements were made.")


def _month(text: str) -> date:
    try:
        return month_named(text)
    except ValueError as error:
        raise CommandError(f"“{text}” is not a month like 2026-12.", returncode=1) from error
