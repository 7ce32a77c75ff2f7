"""What the operator's pages share, here and in the rooms above: how lists behave, who may act, where history is."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from django.db.models import Model
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.formats import localize
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timezone import localtime
from unfold.admin import TabularInline

from accounts.access import signed_in
from accounts.admin import ReadOnlyAdmin, RowAdmin
from accounts.services import record
from derp_portal.lib.units import data_amount

actor = signed_in
"""Who does it: what every write in the admin tells its service."""


def change_url(row: Model) -> str:
    """The address of the row's page in the admin."""
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def list_url(model: type[Model], **filters: Any) -> str:
    """The address of the model's list in the admin, narrowed by `filters` as they stand in the query string."""
    address = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return f"{address}?{urlencode(filters)}" if filters else address


def link(address: str, text: Any) -> SafeString:
    """A link that looks like one in the admin theme."""
    return format_html('<a class="text-link" href="{}">{}</a>', address, text)


def size(count: int | None) -> str:
    """Bytes for people, "–" for none counted."""
    return data_amount(count) if count else "–"


def when(moment: datetime | None) -> str:
    """A moment in the reader's zone and language, "–" for none."""
    return str(localize(localtime(moment))) if moment else "–"


def badge(text: Any, colour: str) -> str:
    """A word on a colour (`success`, `info`, `warning`, `danger`); in lists and on pages alike."""
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": colour})


class OperatorAdmin(RowAdmin):
    """Lists of fifty; nothing is deleted by the handful; every page's history is the audit trail."""

    list_per_page = 50
    list_fullwidth = True
    warn_unsaved_form = True

    def has_act_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Django's "change" permission on the model is what opens its actions."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Everything but deleting many rows at once."""
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def row_or_404(self, request: HttpRequest, object_id: str) -> Any:
        """The row an action's address names, as the list would show it. Raises Http404."""
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        return row

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What happened to this row, from the one audit trail there is."""
        from accounts.models import AuditEntry

        return redirect(list_url(AuditEntry, target_type=self.opts.label_lower, target_id=object_id))

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Django's own log stays empty: services write the audit trail."""

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> None:
        """Django's own log stays empty: services write the audit trail."""

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        """Django's own log stays empty: services write the audit trail."""


class HistoryAdmin(OperatorAdmin, ReadOnlyAdmin):
    """Rows that services and sweeps write: looked at here, never added, changed or deleted."""

    warn_unsaved_form = False


class EditableAdmin(OperatorAdmin):
    """Rows that are only what an operator typed (plans, regions): saved here, with an audit entry."""

    def save_model(self, request: HttpRequest, obj: Model, form: ModelForm[Any], change: bool) -> None:
        """Save and write down who changed which fields."""
        super().save_model(request, obj, form, change)
        verb = "changed" if change else "added"
        event = f"{self.opts.model_name}.{verb}"
        record(actor=actor(request), event=event, target=obj, fields=sorted(form.changed_data))

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        """Delete and write down who did."""
        record(actor=actor(request), event=f"{self.opts.model_name}.deleted", target=obj)
        super().delete_model(request, obj)


class HistoryInline(TabularInline):
    """Rows below another row's page, to be looked at only."""

    extra = 0
    max_num = 0
    can_delete = False
    per_page = 20
    show_count = True
    hide_title = True

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """History is written by services."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """History stays as it was written."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """History stays."""
        return False
