"""What the operator has announced: the list, and closing what stands above every page."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_safe

from accounts import services
from accounts.access import announcement_for, signed_in
from accounts.selectors import announcements_for
from accounts.tables import AnnouncementFilter, AnnouncementTable, configured
from derp_portal.lib.ids import id_in


@login_required
@require_safe
def announcements(request: HttpRequest) -> HttpResponse:
    """What the reader has been told, also what is over."""
    found = AnnouncementFilter(request.GET, queryset=announcements_for(signed_in(request)))
    table = configured(AnnouncementTable(found.qs), request)
    return render(request, "accounts/announcements.html", {"filter": found, "table": table})


def announcement_close(request: HttpRequest, announcement_id: int) -> HttpResponse:
    """Take it from above the reader's pages. By htmx the page stays as it is, with what was typed into it."""
    is_part = bool(getattr(request, "htmx", False))
    if not request.user.is_authenticated:
        return HttpResponse(status=401) if is_part else redirect_to_login(reverse("announcements"))
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    me = signed_in(request)
    announcement, wording = announcement_for(me, announcement_id), id_in(request.POST.get("wording", ""))
    if wording is not None:
        services.close_announcement(announcement_id=announcement.pk, wording=wording, user=me)
    if is_part:
        return HttpResponse()
    back = request.POST.get("next", "")
    is_ours = back.startswith("/") and url_has_allowed_host_and_scheme(
        back, {request.get_host()}, require_https=request.is_secure()
    )
    return HttpResponseRedirect(back if is_ours else reverse("announcements"))
