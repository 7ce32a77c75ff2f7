"""Serial batches and serial numbers."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import BooleanField, Count, Q, QuerySet, Value
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, pgettext_lazy
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from accounts.services import record
from derp_portal.lib.asking import Question, act, act_on_selection, data_of
from derp_portal.lib.wording import enumeration
from fleet.admin.base import HistoryAdmin, actor, badge, change_url, link, list_url
from serials import services
from serials.codes import canonical, grouped
from serials.models import SerialBatch, SerialNumber

from .export import csv_of
from .forms import GenerateForm

STATUS_COLOURS: dict[str, str] = {
    SerialNumber.Status.UNUSED: "info",
    SerialNumber.Status.USED: "success",
    SerialNumber.Status.EXPIRED: "warning",
    SerialNumber.Status.REVOKED: "danger",
}


def _revoked(count: int) -> str:
    return ngettext("%(count)d serial was revoked.", "%(count)d serials were revoked.", count) % {"count": count}


@admin.register(SerialBatch)
class SerialBatchAdmin(HistoryAdmin):
    """Serials made in one go."""

    list_display = ("__str__", "plan", "duration_days", "count", "activate_before", "note", "created_by", "created_at")
    list_filter = (("plan", RelatedDropdownFilter), "created_at")
    list_select_related = ("plan", "created_by")
    search_fields = ("note", "plan__code", "plan__name", "created_by__username")
    actions_list = ("generate",)
    actions_detail = ("export_csv", "revoke_unused")
    fields = (
        ("plan", "duration_days"),
        "show_counts",
        ("activate_before", "note"),
        ("created_by", "created_at"),
        "show_serials",
    )
    readonly_fields = ("show_counts", "show_serials")

    @display(description=gettext_lazy("by status"))
    def show_counts(self, batch: SerialBatch) -> str:
        """How many are unused, used, expired and revoked."""
        counts = dict(batch.serials.order_by().values_list("status").annotate(number=Count("id")))
        return enumeration(f"{counts.get(status, 0)} {word}" for status, word in SerialNumber.Status.choices)

    @display(description=gettext_lazy("serial numbers"))
    def show_serials(self, batch: SerialBatch) -> str:
        """With a link to them."""
        return link(list_url(SerialNumber, batch__id__exact=batch.pk), _("Show all %(count)s") % {"count": batch.count})

    @action(
        description=gettext_lazy("Generate"),
        url_path="generate",
        icon="add",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def generate(self, request: HttpRequest) -> HttpResponseBase:
        """Make a batch, and show it."""
        form = GenerateForm(data_of(request))

        def do() -> HttpResponseBase:
            batch = services.generate(**form.cleaned_data, actor=actor(request))
            made = ngettext("%(count)d serial was made.", "%(count)d serials were made.", batch.count)
            messages.success(request, made % {"count": batch.count})
            return redirect(change_url(batch))

        question = Question(
            title=_("Generate serial numbers"), form=form, button=_("Generate"), back=list_url(SerialBatch)
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Export CSV"), url_path="export", icon="download", permissions=["act"])
    def export_csv(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """All codes of the batch. They are worth money, so the audit trail says who took them."""
        batch: SerialBatch = self.row_or_404(request, object_id)
        record(actor=actor(request), event="serials.exported", target=batch, count=batch.count)
        return csv_of(batch)

    @action(
        description=gettext_lazy("Revoke unused"),
        url_path="revoke",
        icon="block",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def revoke_unused(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Make what nobody has redeemed worthless."""
        batch: SerialBatch = self.row_or_404(request, object_id)
        unused = batch.serials.filter(status=SerialNumber.Status.UNUSED)

        def do() -> str:
            ids = unused.values_list("id", flat=True).iterator()
            return _revoked(services.revoke_serials(serials=ids, actor=actor(request)))

        question = Question(
            title=_("Revoke what is unused of batch %(batch)s?") % {"batch": batch},
            lines=[
                _("%(unused)s of %(all)s serials are unused. They become worthless for good.")
                % {"unused": unused.count(), "all": batch.count},
                _("Serials that were redeemed are left alone; leases go on."),
            ],
            button=_("Revoke the unused ones"),
            back=change_url(batch),
            is_dangerous=True,
        )
        return act(self, request, question, do)


@admin.register(SerialNumber)
class SerialNumberAdmin(HistoryAdmin):
    """Serial numbers. Searching forgives dashes, case and look-alikes; the beginning or the end of one is enough."""

    list_display = (
        "show_code",
        "show_status",
        "plan",
        "duration_days",
        "user",
        "used_at",
        "expires_at",
        "show_batch",
    )
    list_filter = (
        "status",
        ("plan", RelatedDropdownFilter),
        # One looks it up while typing: there may be thousands of batches.
        ("batch", AutocompleteSelectFilter),
        "used_at",
    )
    list_select_related = ("plan", "user")
    search_fields = ("code",)
    search_help_text = gettext_lazy("Code (dashes and case do not matter), user name or e-mail address")
    actions = ("revoke",)
    fields = (
        ("show_code", "show_status"),
        ("plan", "duration_days", "batch"),
        ("created_at", "used_at", "expires_at"),
        ("user", "show_lease"),
    )
    readonly_fields = ("show_code", "show_status", "show_lease")

    def get_queryset(self, request: HttpRequest) -> QuerySet[SerialNumber]:
        """With what the pages name, and whether this reader may read codes that are still worth something."""
        queryset: QuerySet[SerialNumber] = super().get_queryset(request)
        with_names = queryset.select_related("plan", "user", "batch__plan", "term__lease")
        return with_names.annotate(may_read=Value(self.has_act_permission(request), BooleanField()))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By code as people type codes, or by who redeemed it."""
        if not search_term.strip():
            return queryset, False
        people = Q(user__username__icontains=search_term.strip()) | Q(user__email__icontains=search_term.strip())
        code = canonical(search_term)
        codes = Q(code__startswith=code) | Q(code__endswith=code) if code else Q()
        if code and not self.has_act_permission(request):
            # Or a hidden code could be found out letter by letter.
            codes = Q(code=code) | codes & ~Q(status=SerialNumber.Status.UNUSED)
        return queryset.filter(people | codes), False

    @display(description=pgettext_lazy("serial number", "code"), ordering="code")
    def show_code(self, serial: Any) -> str:
        """In groups of four. An unused one is money: whole only for those who could export it, which is audited."""
        is_hidden = serial.status == SerialNumber.Status.UNUSED and not serial.may_read
        return str(serial) if is_hidden else grouped(serial.code)

    @display(description=gettext_lazy("status"), ordering="status")
    def show_status(self, serial: SerialNumber) -> str:
        """The status, coloured."""
        return badge(serial.get_status_display(), STATUS_COLOURS[serial.status])

    @display(description=gettext_lazy("batch"), ordering="batch_id")
    def show_batch(self, serial: SerialNumber) -> str:
        """With a link."""
        return link(change_url(serial.batch), f"#{serial.batch_id}")

    @display(description=gettext_lazy("lease"), empty_value="–")
    def show_lease(self, serial: SerialNumber) -> str | None:
        """The lease its days went to."""
        term = getattr(serial, "term", None)
        return link(change_url(term.lease), term.lease) if term else None

    @admin.action(description=gettext_lazy("Revoke the unused ones"), permissions=["act"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[SerialNumber]) -> HttpResponseBase:
        """Make the chosen ones worthless, if nobody has redeemed them."""
        unused = queryset.filter(status=SerialNumber.Status.UNUSED).order_by()
        count, chosen = unused.count(), queryset.count()

        def do() -> str:
            ids = unused.values_list("id", flat=True).iterator()
            return _revoked(services.revoke_serials(serials=ids, actor=actor(request)))

        question = Question(
            title=_("Revoke serial numbers?"),
            lines=[
                _("%(unused)s of the %(chosen)s chosen serials are unused. They become worthless for good.")
                % {"unused": count, "chosen": chosen},
                _("Serials that were redeemed are left alone; leases go on."),
            ],
            button=_("Revoke the unused ones"),
            back=request.get_full_path(),
            is_dangerous=True,
        )
        return act_on_selection(self, request, question, do)
