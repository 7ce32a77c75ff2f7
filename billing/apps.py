from importlib import import_module

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = _("Money")

    def ready(self) -> None:
        """Teach the alerts what money has to say, in whatever process words them, and tickets what an order is."""
        from accounts import subjects
        from billing.ticket_subjects import find_order, order_choices

        import_module("billing.services.watching")
        subjects.teach("order", choices=order_choices, find=find_order)
