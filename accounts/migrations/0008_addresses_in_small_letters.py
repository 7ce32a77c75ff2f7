"""Addresses in small letters, as allauth looks for them: people whom an operator made could not log in by theirs."""

from typing import Any

from django.db import migrations


def lower(apps: Any, _schema_editor: Any) -> None:
    """What would clash with somebody else's stays as it is: a person has to decide about that."""
    users, addresses = apps.get_model("accounts", "User").objects, apps.get_model("account", "EmailAddress").objects

    def is_anothers(email: str, user_id: int) -> bool:
        of_users = users.filter(email__iexact=email).exclude(pk=user_id)
        return of_users.exists() or addresses.filter(email__iexact=email).exclude(user=user_id).exists()

    for user_id, email in list(users.values_list("pk", "email")):
        if email != email.lower() and not is_anothers(email, user_id):
            users.filter(pk=user_id).update(email=email.lower())
    for pk, user_id, email in list(addresses.values_list("pk", "user", "email")):
        if email == email.lower() or is_anothers(email, user_id):
            continue
        if not addresses.filter(email__iexact=email, user=user_id).exclude(pk=pk).exists():
            addresses.filter(pk=pk).update(email=email.lower())


class Migration(migrations.Migration):
    dependencies = [
        ("accounts", "0001_squashed_0007_tickets_schedule"),
        ("account", "0009_emailaddress_unique_primary_email"),
    ]

    operations = [migrations.RunPython(lower, migrations.RunPython.noop)]
