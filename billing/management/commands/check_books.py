"""`manage.py check_books`: whether the books balance and say what the documents say."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from billing.finance.books import check_books


class Command(BaseCommand):
    help = "Check the books against themselves and the documents; exit with 1 and say what is wrong, if anything is."

    def handle(self, *args: Any, **options: Any) -> None:
        findings = check_books()
        if findings:
            raise CommandError("\n".join(f"{finding.code}: {finding.words}" for finding in findings), returncode=1)
        self.stdout.write("The books balance.")
