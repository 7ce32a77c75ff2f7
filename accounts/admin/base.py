"""What the admin's pages share, here and in the rooms above."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import unquote
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin

from accounts.models import AuditEntry
from accounts.paging import BoundedPaginator


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


def badge(text: Any, colour: str) -> str:
    """A word on a colour (`success`, `info`, `warning`, `danger`); in lists and on pages alike."""
    return render_to_string("unfold/helpers/label.html", {"text": text, "type": colour})


class RowAdmin(ModelAdmin):
    """What pages of rows do: an address that names none gets Django's own answer, history is the audit trail."""

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """The row's page. What offers its actions gets ids that can be one, whoever wrote the address."""
        if object_id is not None:
            try:
                self.opts.pk.to_python(unquote(object_id))
            except ValidationError:
                return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)  # type: ignore[no-any-return]
        return super().changeform_view(request, object_id, form_url, extra_context)  # type: ignore[no-any-return]

    def has_act_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Django's "change" permission on the model is what opens its actions."""
        return bool(request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}"))

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
        return redirect(list_url(AuditEntry, target_type=self.opts.label_lower, target_id=object_id))


class ReadOnlyAdmin(RowAdmin):
    """Rows one may look at; what can be done about them is an action. They grow with time: never counted whole."""

    paginator = BoundedPaginator
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, *_args: Any) -> bool:
        """Rows come from services."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Looking only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """History stays."""
        return False
