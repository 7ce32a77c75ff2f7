from django.apps import AppConfig
from django.db import transaction
from django.utils.translation import gettext_lazy as _


class ResellersConfig(AppConfig):
    name = "resellers"
    verbose_name = _("Resellers")

    def ready(self) -> None:
        """Tell the rooms below who sold a lease, which may not ask; and listen for sign-ups."""
        from accounts.subjects import teach_first_line
        from accounts.wakeups import signed_up_with_a_reference
        from resellers.selectors import first_line_of_lease, seller_lines
        from serials.services.notices import teach_seller

        teach_seller(seller_lines)
        teach_first_line("lease", first_line_of_lease)
        signed_up_with_a_reference.connect(self._read_soon, dispatch_uid="resellers")

    @staticmethod
    def _read_soon(**_signal: object) -> None:
        """Before the first order, so that it is booked as brought by the reseller; the sweep would come too."""
        from resellers.tasks import read_signups

        transaction.on_commit(read_signups.delay, robust=True)
