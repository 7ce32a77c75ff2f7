"""The system log as an operator's page, and as a file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import tzinfo
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_safe
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from accounts.access import signed_in
from accounts.services import record
from fleet.admin.alerts import SEVERITY_COLOURS
from serials.admin.export import safe_cell

from .entries import Entry, Kind, Severity
from .reading import Filters, read, read_all

PER_PAGE = 50
LARGEST_EXPORT = 10_000
NEEDED = (
    "accounts.view_auditentry",
    "accounts.view_taskfailure",
    "fleet.view_alert",
    "fleet.view_evacuation",
    "fleet.view_move",
    "fleet.view_relayevent",
    "fleet.view_serverevent",
)
"""The log shows the rows of all these tables, so who may not see one of them does not see the log."""


def may_read(request: HttpRequest) -> bool:
    """Whether the person may see everything that is in the log."""
    return request.user.has_perms(NEEDED)


class FilterForm(forms.Form):
    """What is wanted. Moments are in the reader's zone."""

    kind = forms.ChoiceField(
        label=gettext_lazy("Kind"),
        choices=[("", gettext_lazy("All kinds")), *Kind.choices],
        required=False,
        widget=UnfoldAdminSelectWidget,
    )
    severity = forms.ChoiceField(
        label=gettext_lazy("Severity"),
        choices=[("", gettext_lazy("All severities")), *Severity.choices],
        required=False,
        widget=UnfoldAdminSelectWidget,
    )
    person = forms.CharField(
        label=gettext_lazy("Person"),
        max_length=80,
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": gettext_lazy("A username, or system")}),
    )
    object = forms.CharField(
        label=gettext_lazy("Object"),
        max_length=80,
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": gettext_lazy("A server, relay, user, or lease:12")}),
    )
    since = forms.DateTimeField(
        label=gettext_lazy("From"), required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"})
    )
    until = forms.DateTimeField(
        label=gettext_lazy("To"), required=False, widget=UnfoldAdminTextInputWidget(attrs={"type": "datetime-local"})
    )

    @property
    def filters(self) -> Filters:
        """What was asked for; fields that mean nothing narrow nothing, and say so beside themselves."""
        said = {name: value for name, value in getattr(self, "cleaned_data", {}).items() if value}
        if "kind" in said:
            said["kind"] = Kind(said["kind"])
        if "severity" in said:
            said["severity"] = Severity(said["severity"])
        return Filters(**said)


@require_safe
def system_log_page(request: HttpRequest) -> HttpResponseBase:
    """The log, narrowed by the address. Pages follow each other by `cursor`."""
    form = _asked(request)
    page = read(form.filters, cursor=request.GET.get("cursor", ""), limit=PER_PAGE)
    narrowed = {name: value for name, value in request.GET.items() if name in form.fields and value}
    context = {
        **admin.site.each_context(request),
        "title": _("System log"),
        "form": form,
        "lines": [(entry, SEVERITY_COLOURS[entry.severity]) for entry in page.entries],
        "is_narrowed": bool(narrowed),
        "is_first": not request.GET.get("cursor"),
        "first_page": "?" + urlencode(narrowed),
        "next_page": "?" + urlencode({**narrowed, "cursor": page.next}) if page.next else "",
        "export": urlencode(narrowed),
        "largest_export": LARGEST_EXPORT,
    }
    return TemplateResponse(request, "admin/system_log.html", context)


@require_safe
def system_log_export(request: HttpRequest) -> HttpResponseBase:
    """The newest 10,000 lines that fit the filters, as CSV, sent while they are read."""
    filters = _asked(request).filters
    record(actor=signed_in(request), event="system_log.exported", filters=dict(request.GET.items()))
    language, zone = translation.get_language(), timezone.get_current_timezone()
    parts = _in_language_and_zone(language, zone, _csv(filters))
    answer = StreamingHttpResponse(parts, content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="system-log.csv"'
    return answer


def _asked(request: HttpRequest) -> FilterForm:
    if not may_read(request):
        raise PermissionDenied
    form = FilterForm(request.GET)
    form.full_clean()
    return form


def _csv(filters: Filters) -> Iterator[str]:
    """Starts with a byte-order mark: Excel needs it for Chinese words."""
    head = (_("when"), _("kind"), _("severity"), _("person"), _("object"), _("what happened"), _("link"))
    yield "\ufeff" + _line(head)
    for entries in read_all(filters, most=LARGEST_EXPORT):
        yield "".join(_line(_cells(entry)) for entry in entries)


def _cells(entry: Entry) -> tuple[Any, ...]:
    at = timezone.localtime(entry.at).isoformat(sep=" ", timespec="seconds")
    return at, entry.kind.label, entry.severity.label, entry.person, entry.object, entry.message, entry.link


def _line(cells: tuple[Any, ...]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow([safe_cell(cell) for cell in cells])
    return text.getvalue()


def _in_language_and_zone(language: str | None, zone: tzinfo, parts: Iterator[str]) -> Iterator[str]:
    """The parts, each made in that language and zone: they are sent when the request is over, and the thread must not
    be left with them in between.
    """
    while True:
        with translation.override(language), timezone.override(zone):
            part = next(parts, None)
        if part is None:
            return
        yield part
