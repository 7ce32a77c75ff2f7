"""What the operator's pages share, here and in the rooms above: how lists behave, who may act, where history is."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.formats import localize
from django.utils.timezone import localtime
from unfold.admin import TabularInline

from accounts.access import signed_in
from accounts.admin.base import ReadOnlyAdmin, RowAdmin, badge, change_url, link, list_url
from accounts.services import record
from derp_portal.lib.units import data_amount

__all__ = [
    "EditableAdmin",
    "HistoryAdmin",
    "HistoryInline",
    "OperatorAdmin",
    "actor",
    "badge",
    "change_url",
    "link",
    "list_url",
    "size",
    "when",
]

actor = signed_in
"""Who does it: what every write in the admin tells its service."""


def size(count: int | None) -> str:
    """Bytes for people, "–" for none counted."""
    return data_amount(count) if count else "–"


def when(moment: datetime | None) -> str:
    """A moment in the reader's zone and language, "–" for none."""
    return str(localize(localtime(moment))) if moment else "–"


class OperatorAdmin(RowAdmin):
    """Lists of fifty; nothing is deleted by the handful; every page's history is the audit trail."""

    list_per_page = 50
    list_fullwidth = True
    warn_unsaved_form = True

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Everything but deleting many rows at once."""
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

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
