"""`manage.py create_first_admin`: so that somebody can log in after the very first start."""

from __future__ import annotations

import os
import secrets
from typing import Any

from allauth.account.models import EmailAddress
from django.core.management.base import BaseCommand
from django.db import transaction

from accounts.models import User
from accounts.services import record


class Command(BaseCommand):
    """Safe to run at every start: it does something only while there is no administrator."""

    help = "Create the first administrator from ADMIN_EMAIL and ADMIN_PASSWORD, unless there is one."

    def handle(self, *_args: Any, **_options: Any) -> None:
        """Create the administrator; a password we made up is printed this once and never again."""
        if User.objects.filter(role=User.Role.ADMIN).exists():
            return
        email = os.environ.get("ADMIN_EMAIL", "").strip().lower() or "admin@example.com"
        given = os.environ.get("ADMIN_PASSWORD", "")
        password = given or secrets.token_urlsafe(12)
        with transaction.atomic():
            admin = User.objects.create_superuser("admin", email, password)
            EmailAddress.objects.create(user=admin, email=email, verified=True, primary=True)
            record(actor=None, event="user.registered", target=admin, role=admin.role)
        self.stdout.write(f"First administrator: {email} (username admin)")
        if given:
            self.stdout.write("Password: the one in ADMIN_PASSWORD")
        else:
            self.stdout.write(f"Password: {password}   (shown only now; change it under Security)")
