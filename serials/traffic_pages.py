"""The customer's traffic: quotas, what each relay carried, its history as a chart, a table and a file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import render
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.models import User
from fleet.charts import traffic_chart
from fleet.models import Traffic
from fleet.traffic import daily_rows, groups_with_traffic, history, traffic_of_groups
from serials.models import Lease, LeaseTerm

RANGES: dict[str, tuple[Traffic.Span, int, Promise]] = {
    "48h": (Traffic.Span.HOUR, 48, _("48 hours")),
    "30d": (Traffic.Span.DAY, 30, _("30 days")),
    "90d": (Traffic.Span.DAY, 90, _("90 days")),
}
DEFAULT_RANGE = "30d"


def _figures(owner: User) -> dict[str, Any]:
    groups = groups_with_traffic(owner)
    waiting = LeaseTerm.objects.filter(lease=OuterRef("pk"), state=LeaseTerm.State.QUEUED)
    found_leases = Lease.objects.filter(relay_group__in=groups).annotate(has_next_term=Exists(waiting))
    leases = {lease.relay_group_id: lease for lease in found_leases}
    found = traffic_of_groups(groups)
    return {"parts": [{"traffic": one, "lease": leases.get(one.group.pk)} for one in found]}


@login_required
@require_safe
def traffic(request: HttpRequest) -> HttpResponse:
    """How much is used and left of each quota, and what passed when."""
    owner = signed_in(request)
    chosen = request.GET.get("range", "")
    chosen = chosen if chosen in RANGES else DEFAULT_RANGE
    span, count, _label = RANGES[chosen]
    context = _figures(owner) | {
        "chart": traffic_chart(history(owner, span=span, count=count)),
        "is_hourly": span == Traffic.Span.HOUR,
        "ranges": [(key, label) for key, (_span, _count, label) in RANGES.items()],
        "chosen": chosen,
    }
    return render(request, "serials/traffic.html", context)


@never_cache
@require_safe
def traffic_live(request: HttpRequest) -> HttpResponse:
    """The figures alone, for the page's poll. When the session is over the whole page is asked to load again."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    return render(request, "serials/traffic_figures.html", _figures(signed_in(request)))


class _Echo:
    """What csv writes to: it hands every line on."""

    def write(self, line: str) -> str:
        return line


@login_required
@require_safe
def traffic_csv(request: HttpRequest) -> StreamingHttpResponse:
    """Every day of every relay of one's own, exact to the byte, for spreadsheets. Days are UTC's."""
    owner = signed_in(request)
    writer = csv.writer(_Echo())

    def lines() -> Iterator[str]:
        yield writer.writerow(["day_utc", "relay", "upload_bytes", "download_bytes", "unmeasured_seconds"])
        for row in daily_rows(owner):
            day = row["starts_at"].date().isoformat()
            yield writer.writerow(
                [day, row["relay__code"], row["upload_bytes"], row["download_bytes"], row["unmeasured_seconds"]]
            )

    response = StreamingHttpResponse(lines(), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="traffic.csv"'
    return response
