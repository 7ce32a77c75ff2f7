"""What the operator has announced: the list, and closing what stands above every page."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe

from accounts import services
from accounts.access import announcement_for, signed_in
from accounts.selectors import announcements_for
from accounts.tables import AnnouncementFilter, AnnouncementTable, configured


@login_required
@require_safe
def announcements(request: HttpRequest) -> HttpResponse:
    """What the reader has been told, also what is over."""
    found = AnnouncementFilter(request.GET, queryset=announcements_for(signed_in(request)))
    table = configured(AnnouncementTable(found.qs), request)
    return render(request, "accounts/announcements.html", {"filter": found, "table": table})


@login_required
@require_POST
def announcement_close(request: HttpRequest, announcement_id: int) -> HttpResponse:
    """Take it from above the reader's pages. By htmx the page stays as it is, with what was typed into it."""
    me = signed_in(request)
    services.close_announcement(announcement_id=announcement_for(me, announcement_id).pk, user=me)
    if getattr(request, "htmx", False):
        return HttpResponse()
    back = request.POST.get("next", "")
    is_ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
    return redirect(back if is_ours else "announcements")
