"""The lists of this room: for each a table and its filter."""

from __future__ import annotations

from typing import Any

import django_filters
import django_tables2 as tables
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.models import Announcement, ApiToken, Notification, Ticket
from accounts.paging import BoundedPaginator
from accounts.selectors import with_words
from derp_portal.lib import clock
from derp_portal.lib.wording import enumeration

PER_PAGE = 25
TIME_CELL = "{% load portal %}{% relative_time value %}"

TOKEN_STATES = [("live", _("Valid")), ("expired", _("Expired")), ("revoked", _("Revoked"))]


class TokenFilter(django_filters.FilterSet):
    """By name or beginning, and by state."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    state = django_filters.ChoiceFilter(label=_("State"), choices=TOKEN_STATES, method="by_state", empty_label=_("All"))

    class Meta:
        model = ApiToken
        fields: tuple[str, ...] = ()

    def by_search(self, queryset: QuerySet[ApiToken], _name: str, value: str) -> QuerySet[ApiToken]:
        """Names that contain the words, or tokens that begin like them."""
        return queryset.filter(Q(name__icontains=value) | Q(prefix__istartswith=value))

    def by_state(self, queryset: QuerySet[ApiToken], _name: str, value: str) -> QuerySet[ApiToken]:
        """The same rule as `ApiToken.state`, for the database."""
        now = clock.now()
        rules = {
            "revoked": Q(revoked_at__isnull=False),
            "expired": Q(revoked_at=None, expires_at__lte=now),
            "live": Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=now)),
        }
        return queryset.filter(rules[value])


class TokenTable(tables.Table):
    """A person's API tokens."""

    name = tables.Column(verbose_name=_("Name"))
    prefix = tables.TemplateColumn("<code>{{ value }}…</code>", verbose_name=_("Begins with"), orderable=False)
    scopes = tables.Column(verbose_name=_("May use"), orderable=False)
    state = tables.TemplateColumn(template_name="accounts/token_state.html", verbose_name=_("State"), orderable=False)
    expires_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Valid until"))
    last_used_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Last used"))
    actions = tables.TemplateColumn(
        template_name="accounts/token_actions.html", verbose_name="", orderable=False, empty_values=()
    )

    class Meta:
        attrs = {"aria_label": _("API tokens")}
        empty_text = _("No API tokens")
        order_by = "-created_at"

    def render_scopes(self, value: list[str]) -> str:
        """The scopes in words."""
        labels = dict(ApiToken.Scope.choices)
        return enumeration(str(labels.get(scope, scope)) for scope in value)


class NotificationFilter(django_filters.FilterSet):
    """By words in the message, and by where it is on its way."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    status = django_filters.ChoiceFilter(label=_("State"), choices=Notification.Status.choices, empty_label=_("All"))

    class Meta:
        model = Notification
        fields = ("status",)

    def by_search(self, queryset: QuerySet[Notification], _name: str, value: str) -> QuerySet[Notification]:
        """Messages that contain the words."""
        return queryset.filter(Q(subject__icontains=value) | Q(body_text__icontains=value))


class NotificationTable(tables.Table):
    """What the portal wrote to a person."""

    subject = tables.Column(verbose_name=_("Subject"), linkify=lambda record: reverse("notification", args=[record.pk]))
    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Written"))
    status = tables.TemplateColumn(template_name="accounts/notification_state.html", verbose_name=_("State"))

    class Meta:
        attrs = {"aria_label": _("Notifications")}
        row_attrs = {"data-href": lambda record: reverse("notification", args=[record.pk])}
        empty_text = _("No notifications yet")
        order_by = "-created_at"


class AnnouncementFilter(django_filters.FilterSet):
    """By words, and by whether it lasts."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    state = django_filters.ChoiceFilter(
        label=_("State"),
        choices=[(state.value, state.label) for state in (Announcement.State.CURRENT, Announcement.State.OVER)],
        method="by_state",
        empty_label=_("All"),
    )

    class Meta:
        model = Announcement
        fields: tuple[str, ...] = ()

    def by_search(self, queryset: QuerySet[Announcement], _name: str, value: str) -> QuerySet[Announcement]:
        """Those that contain the words, in whichever language they were written."""
        return queryset.filter(with_words(value))

    def by_state(self, queryset: QuerySet[Announcement], _name: str, value: str) -> QuerySet[Announcement]:
        """Those that last, or those that are over."""
        return queryset.filter(Announcement.in_state(Announcement.State(value)))


class AnnouncementTable(tables.Table):
    """What the operator has told the reader and others."""

    title = tables.TemplateColumn(template_name="accounts/announcement_cell.html", verbose_name=_("Announcement"))
    starts_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Since"))
    ends_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Until"))

    class Meta:
        attrs = {"aria_label": _("Announcements")}
        empty_text = _("No announcements")
        order_by = "-starts_at"


class TicketFilter(django_filters.FilterSet):
    """By number or words of the subject, and by whose turn it is."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    state = django_filters.ChoiceFilter(label=_("State"), choices=Ticket.State.choices, empty_label=_("All"))

    class Meta:
        model = Ticket
        fields = ("state",)

    def by_search(self, queryset: QuerySet[Ticket], _name: str, value: str) -> QuerySet[Ticket]:
        """Numbers that begin so, or subjects that contain the words."""
        return queryset.filter(Q(number__startswith=value.strip().upper()) | Q(subject__icontains=value))


def ticket_url(record: Ticket) -> str:
    """The ticket's own page."""
    return reverse("ticket", args=[record.number])


class TicketTable(tables.Table):
    """What a person has asked."""

    subject = tables.Column(verbose_name=_("Subject"), linkify=ticket_url)
    number = tables.TemplateColumn("<code>{{ value }}</code>", verbose_name=_("Number"))
    last_message_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Last message"))
    state = tables.TemplateColumn(
        '{% include "accounts/ticket_state.html" with ticket=record %}', verbose_name=_("State")
    )

    class Meta:
        attrs = {"aria_label": _("Tickets")}
        row_attrs = {"data-href": ticket_url}
        empty_text = _("No ticket found")
        order_by = "-last_message_at"


def configured(table: tables.Table, request: HttpRequest, *, is_long: bool = False) -> tables.Table:
    """The table, sorted and paged as the request asks. A long one is counted to a bound only."""
    options: dict[str, Any] = {"per_page": PER_PAGE}
    if is_long:
        options["paginator_class"] = BoundedPaginator
    tables.RequestConfig(request, paginate=options).configure(table)
    return table
