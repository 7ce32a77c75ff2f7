from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class SerialsConfig(AppConfig):
    name = "serials"
    verbose_name = _("Serials and leases")

    def ready(self) -> None:
        """Teach the room of tickets what a lease is."""
        from accounts import subjects
        from serials.ticket_subjects import find_lease, lease_choices

        subjects.teach("lease", choices=lease_choices, find=find_lease)
