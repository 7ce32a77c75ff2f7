"""Tickets: what one has asked, asking, and the thread, for its customer and for the seller whom it reached first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts import services, subjects
from accounts.access import signed_in, ticket_for
from accounts.forms import ReplyForm, TicketForm
from accounts.models import Ticket, User
from accounts.ratelimit import RateLimited
from accounts.selectors import TicketCard, thread_version, ticket_card, tickets_of
from accounts.tables import TicketFilter, TicketTable, configured
from derp_portal.lib.errors import PortalError

NOTHING_NEW = 204
TOO_MANY = 429


def _card(me: User, number: str) -> TicketCard:
    found, side = ticket_for(me, number)
    return ticket_card(found, me, side)


def _context(card: TicketCard) -> dict[str, Any]:
    """What every page of a ticket needs: it stands among its customer's pages, or among the seller's."""
    layout = "layout/account.html" if card.is_customers else "resellers/layout.html"
    return {"card": card, "layout": layout, "hours": settings.TICKET_FIRST_LINE_HOURS}


@login_required
@require_safe
def tickets(request: HttpRequest) -> HttpResponse:
    """What one has asked, and whose turn it is."""
    found = TicketFilter(request.GET, queryset=tickets_of(signed_in(request)))
    table = configured(TicketTable(found.qs), request)
    return render(request, "accounts/tickets.html", {"filter": found, "table": table})


@login_required
@never_cache
def ticket_new(request: HttpRequest) -> HttpResponse:
    """Ask something; `about` in the address chooses what about. The page says who will read it."""
    me = signed_in(request)
    said = (request.POST if request.method == "POST" else request.GET).get("about", "")[:80]
    chosen = subjects.own(said, me)
    offered = subjects.choices(me)
    if chosen is not None and chosen.about not in {subject.about for subject in offered}:
        offered.append(chosen)
    known = {"about": chosen.about if chosen else ""}
    form = TicketForm(request.POST or None, initial=known, choices=offered)
    status = 200
    if request.method == "POST" and form.is_valid():
        wanted = {name: form.cleaned_data[name] for name in ("subject", "text", "about")}
        try:
            opened = services.open_ticket(user=me, **wanted, client_key=form.key, actor=me)
        except PortalError as error:
            form.refuse(error)
            status = TOO_MANY if isinstance(error, RateLimited) else 200
        else:
            messages.success(request, _("Your ticket is here. You get a mail as soon as it is answered."))
            return redirect("ticket", opened.number)
    seller_first = chosen is not None and subjects.first_line_of(chosen.about, me) is not None
    context = {"form": form, "seller_first": seller_first, "hours": settings.TICKET_FIRST_LINE_HOURS}
    return render(request, "accounts/ticket_new.html", context, status=status)


@login_required
@never_cache
def ticket(request: HttpRequest, number: str) -> HttpResponse:
    """The thread, and a form to write into it."""
    me = signed_in(request)
    found, side = ticket_for(me, number)
    form = ReplyForm(request.POST or None)
    status = 200
    if request.method == "POST" and form.is_valid():
        try:
            services.reply(ticket_id=found.pk, text=form.cleaned_data["text"], client_key=form.key, actor=me)
        except PortalError as error:
            form.refuse(error)
            status = TOO_MANY if isinstance(error, RateLimited) else 200
        else:
            messages.success(request, _("Sent."))
            return redirect("ticket", found.number)
    context = _context(ticket_card(found, me, side)) | {"form": form}
    return render(request, "accounts/ticket.html", context, status=status)


@never_cache
@require_safe
def ticket_live(request: HttpRequest, number: str) -> HttpResponse:
    """Nothing while the thread is what it was; else the thread. `have` says what the page shows.

    Only the thread is swapped: what is being typed below it stays.
    """
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    me = signed_in(request)
    found, side = ticket_for(me, number)
    if request.GET.get("have") == thread_version(found):
        return HttpResponse(status=NOTHING_NEW)
    return render(request, "accounts/ticket_thread.html", _context(ticket_card(found, me, side)))


@login_required
def ticket_close(request: HttpRequest, number: str) -> HttpResponse:
    """Ask, then close it."""
    card = _card(signed_in(request), number)
    if request.method == "POST":
        return _done(request, card, services.close_ticket, _("The ticket is closed."))
    if not card.can_close:
        messages.info(request, _("There is nothing to close here any more."))
        return redirect("ticket", card.ticket.number)
    return render(request, "accounts/ticket_close.html", _context(card))


@login_required
def ticket_pass_on(request: HttpRequest, number: str) -> HttpResponse:
    """Ask, then make it the operator's."""
    card = _card(signed_in(request), number)
    if request.method == "POST":
        return _done(request, card, services.pass_on, _("The ticket is with the operator now."))
    if not card.can_pass_on:
        messages.info(request, _("The operator has this ticket already, or it is closed."))
        return redirect("ticket", card.ticket.number)
    return render(request, "accounts/ticket_pass_on.html", _context(card))


def _done(request: HttpRequest, card: TicketCard, verb: Callable[..., Ticket], words: str) -> HttpResponse:
    """Do it, and say so or why not on the ticket's own page."""
    try:
        verb(ticket_id=card.ticket.pk, actor=signed_in(request))
    except PortalError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, words)
    return redirect("ticket", card.ticket.number)
