from importlib import import_module

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = _("Money")

    def ready(self) -> None:
        """Teach the alerts what money has to say, in whatever process words them."""
        import_module("billing.services.watching")
