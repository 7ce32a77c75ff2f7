"""Tickets as staff answer them: what waits for the operator stands on top, every act asks first."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextareaWidget

from accounts import services, subjects
from accounts.access import signed_in
from accounts.models import Ticket
from accounts.selectors import thread_of
from accounts.services.tickets import LONGEST_TEXT, may_pass_on, may_reply
from derp_portal.lib.asking import Question, act, data_of

from .base import ReadOnlyAdmin, badge, change_url, link

Queue = Ticket.Queue
COLOURS = {Queue.STAFF: "danger", Queue.FIRST_LINE: "warning", Queue.ANSWERED: "success", Queue.CLOSED: ""}


class TextForm(forms.Form):
    """What staff write."""

    text = forms.CharField(
        label=_("Text"),
        max_length=LONGEST_TEXT,
        strip=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 10}),
        error_messages={"required": _("Please write something: the message is empty.")},
    )


class WhoseTurn(admin.SimpleListFilter):
    """Who has to do something."""

    title = _("whose turn it is")
    parameter_name = "turn"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """The queues, in their order."""
        return [(queue.name.lower(), queue.label) for queue in Queue]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        chosen = {queue.name.lower(): queue for queue in Queue}.get(self.value() or "")
        return queryset if chosen is None else queryset.filter(queue=chosen)


@admin.register(Ticket)
class TicketAdmin(ReadOnlyAdmin):
    """Tickets. What was written is never changed; staff add to it."""

    list_per_page = 50
    list_fullwidth = True
    list_display = (
        "number",
        "subject",
        "show_customer",
        "show_turn",
        "show_first_line",
        "waiting_since",
        "last_message_at",
    )
    list_filter = (WhoseTurn, ("first_line", AutocompleteSelectFilter), "created_at", "last_message_at")
    search_fields = ("number", "subject", "customer__username", "customer__email")
    search_help_text = _("Ticket number, words of the subject, name or e-mail of the customer")
    ordering = ("queue", "waiting_since", "-last_message_at", "-id")
    actions_detail = ("answer", "note", "take_over", "close")
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("number", "show_turn"),
                    "subject",
                    ("show_customer", "show_first_line"),
                    ("created_at", "waiting_since"),
                    ("with_staff_since", "closed_at"),
                )
            },
        ),
    )
    readonly_fields = ("show_turn", "show_customer", "show_first_line")
    change_form_outer_after_template = "admin/accounts/ticket_thread.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Ticket]:
        """With the people that a row names."""
        queryset: QuerySet[Ticket] = super().get_queryset(request)
        return queryset.select_related("customer", "first_line")

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only what makes sense for the ticket as it is."""
        ticket = Ticket.objects.filter(pk=object_id).first()
        if ticket is None:
            return []
        fits = {
            "accounts_ticket_answer": may_reply(ticket),
            "accounts_ticket_take_over": may_pass_on(ticket),
            "accounts_ticket_close": not ticket.is_closed,
        }
        return [one for one in super().get_actions_detail(request, object_id) if fits.get(one.action_name, True)]

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With what it is about, and the whole thread, internal notes too."""
        more: dict[str, Any] = {}
        ticket = self.get_object(request, object_id)
        if ticket is not None and self.has_view_permission(request, ticket):
            more = {
                "thread": thread_of(ticket, with_notes=True),
                "subject": subjects.find(ticket.about, signed_in(request)),
            }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    # --- what a row shows ---

    @display(description=_("whose turn it is"), ordering="queue")
    def show_turn(self, ticket: Ticket) -> str:
        """Coloured."""
        queue = Queue(ticket.queue)
        return badge(queue.label, COLOURS[queue])

    @display(description=_("customer"), ordering="customer__username")
    def show_customer(self, ticket: Ticket) -> str:
        """With a link."""
        return link(change_url(ticket.customer), ticket.customer)

    @display(description=_("first line"), empty_value="–")
    def show_first_line(self, ticket: Ticket) -> str | None:
        """The seller whom it reached first, with a link."""
        return link(change_url(ticket.first_line), ticket.first_line) if ticket.first_line else None

    # --- what staff do ---

    @action(description=_("Answer"), url_path="answer", icon="reply", permissions=["act"])
    def answer(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Write to the customer."""
        ticket, form = self.row_or_404(request, object_id), TextForm(data_of(request))

        def do() -> str:
            services.reply(ticket_id=ticket.pk, text=form.cleaned_data["text"], actor=signed_in(request))
            return gettext("The answer is sent.")

        lines = [
            gettext("%(customer)s reads it on their page and by mail. Plain text; line breaks stay.") % _named(ticket)
        ]
        if ticket.first_line is not None:
            lines.append(gettext("%(seller)s, whom the ticket reached first, reads it too.") % _named(ticket))
        if not ticket.is_with_staff:
            lines.append(gettext("With your answer the operator takes the ticket over."))
        if ticket.is_closed:
            lines.append(gettext("The ticket is closed. Your answer opens it again."))
        title = gettext("Answer ticket %(number)s: %(subject)s") % _named(ticket)
        question = Question(title=title, lines=lines, form=form, button=gettext("Send"), back=change_url(ticket))
        return act(self, request, question, do)

    @action(description=_("Internal note"), url_path="note", icon="edit_note", permissions=["act"])
    def note(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Write something for staff alone."""
        ticket, form = self.row_or_404(request, object_id), TextForm(data_of(request))

        def do() -> str:
            services.add_note(ticket_id=ticket.pk, text=form.cleaned_data["text"], actor=signed_in(request))
            return gettext("The note is kept.")

        question = Question(
            title=gettext("Internal note to ticket %(number)s: %(subject)s") % _named(ticket),
            lines=[gettext("Only staff read it, here. It is in no mail, and neither customer nor seller ever see it.")],
            form=form,
            button=gettext("Keep the note"),
            back=change_url(ticket),
        )
        return act(self, request, question, do)

    @action(description=_("Take over"), url_path="take-over", icon="move_up", permissions=["act"])
    def take_over(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Make it the operator's before the seller has passed it on."""
        ticket = self.row_or_404(request, object_id)

        def do() -> str:
            services.pass_on(ticket_id=ticket.pk, actor=signed_in(request))
            return gettext("Ticket %(number)s is the operator's now.") % _named(ticket)

        question = Question(
            title=gettext("Take ticket %(number)s over?") % _named(ticket),
            lines=[
                gettext("It has reached %(seller)s first. From now on it waits for the operator.") % _named(ticket),
                gettext("%(customer)s is told by mail. %(seller)s may still read and answer.") % _named(ticket),
            ],
            button=gettext("Take over"),
            back=change_url(ticket),
        )
        return act(self, request, question, do)

    @action(description=_("Close the ticket"), url_path="close", icon="check_circle", permissions=["act"])
    def close(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Say that it is settled."""
        ticket = self.row_or_404(request, object_id)

        def do() -> str:
            services.close_ticket(ticket_id=ticket.pk, actor=signed_in(request))
            return gettext("Ticket %(number)s is closed.") % _named(ticket)

        question = Question(
            title=gettext("Close ticket %(number)s?") % _named(ticket),
            lines=[
                gettext("%(customer)s is told by mail, and opens it again by writing into it within 30 days.")
                % _named(ticket)
            ],
            button=gettext("Close"),
            back=change_url(ticket),
        )
        return act(self, request, question, do)


def _named(ticket: Ticket) -> dict[str, Any]:
    return {
        "number": ticket.number,
        "subject": ticket.subject,
        "customer": ticket.customer,
        "seller": ticket.first_line,
    }
