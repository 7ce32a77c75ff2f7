"""Relays on their way: every failover with how far it is, and every single move."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from derp_portal.lib.clock import now
from fleet.models import Evacuation, Move, Server, ServerEvent
from fleet.overview import Progress, progress_of
from fleet.words import trouble

from .base import HistoryAdmin, badge, change_url, link

SHOWN = 200
"""So many moves are on a failover's page; the list has the rest."""

LATEST = 20

STATE_COLOURS: dict[str, str] = {
    Evacuation.State.RUNNING: "warning",
    Evacuation.State.DONE: "success",
    Evacuation.State.CANCELLED: "",
    Move.State.WAITING: "danger",
    Move.State.PLACED: "warning",
    Move.State.ANSWERED: "success",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A move as a failover's page shows it."""

    move: Move
    state: str
    why: str
    before: str
    after: str
    took: str


def span(start: datetime | None, end: datetime | None) -> str:
    """Hours, minutes and seconds between two moments, until now while it goes on; "–" before it began."""
    return str((end or now()) - start).partition(".")[0] if start else "–"


def before(move: Move) -> str:
    """Where it came from: the server's name, and the address maps had."""
    return _place(move.from_server, move.from_ip, move.from_port)


def after(move: Move) -> str:
    """Where it went, once that is known."""
    return _place(move.to_server, move.to_ip, move.to_port)


def _place(server: Server | None, ip: str | None, port: int | None) -> str:
    host = f"[{ip}]" if ip and ":" in ip else ip
    address = f"{host}:{port}" if host and port else host
    return " · ".join(filter(None, (server.name if server else "", address))) or "–"


def timeline(server: Server) -> dict[str, Any]:
    """What a server's page shows of its past and of the failover under way, in four queries at most."""
    evacuations = list(server.evacuations.annotate(**_counts()).order_by("-id")[:LATEST])
    running = next((one for one in evacuations if one.state == Evacuation.State.RUNNING), None)
    return {
        "events": [(event, trouble(event.detail)) for event in server.events.all()[:LATEST]],
        "evacuations": [(one, badge(one.get_state_display(), STATE_COLOURS[one.state])) for one in evacuations],
        "running": running,
        "progress": progress_of(running) if running else None,
        "server": server,
    }


def _counts() -> dict[str, Count]:
    return {
        "total": Count("moves", filter=~Q(moves__state=Move.State.CANCELLED)),
        "answered": Count("moves", filter=Q(moves__state=Move.State.ANSWERED)),
    }


class MoveColumns:
    """What lists say of a move."""

    @display(description=gettext_lazy("relay"), ordering="relay__code")
    def show_relay(self, move: Move) -> str:
        """Its code and its owner."""
        return link(change_url(move.relay), f"{move.relay.code} · {move.relay.owner}")

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, move: Move) -> str:
        """The state, coloured."""
        return badge(move.get_state_display(), STATE_COLOURS[move.state])

    @display(description=gettext_lazy("old place"))
    def show_before(self, move: Move) -> str:
        """The place it left."""
        return before(move)

    @display(description=gettext_lazy("new place"))
    def show_after(self, move: Move) -> str:
        """The place it got, or why it waits."""
        return trouble(move.waits_for) if move.state == Move.State.WAITING and move.waits_for else after(move)

    @display(description=gettext_lazy("took"))
    def show_took(self, move: Move) -> str:
        """From the beginning to the first answer."""
        return span(move.created_at, move.ended_at)


@admin.register(Move)
class MoveAdmin(MoveColumns, HistoryAdmin):
    """Every move there ever was."""

    list_display = (
        "created_at",
        "show_relay",
        "reason",
        "show_state",
        "show_before",
        "show_after",
        "show_took",
    )
    list_filter = (
        "state",
        "reason",
        ("from_server", RelatedDropdownFilter),
        ("to_server", RelatedDropdownFilter),
        "created_at",
    )
    list_select_related = ("relay__owner", "from_server", "to_server")
    search_fields = ("relay__code", "relay__owner__username", "relay__owner__email", "from_ip", "to_ip")
    fields = (
        ("show_relay", "evacuation"),
        ("show_state", "reason"),
        ("show_before", "show_after"),
        ("from_generation", "to_generation"),
        ("created_at", "placed_at"),
        ("ended_at", "show_took"),
    )
    readonly_fields = ("show_relay", "show_state", "show_took", "show_before", "show_after")


@admin.register(Evacuation)
class EvacuationAdmin(HistoryAdmin):
    """Failovers and drains: how far each is, and which way every relay took."""

    list_display = ("started_at", "show_server", "reason", "show_state", "show_progress", "show_took", "actor")
    list_filter = ("state", "reason", ("server", RelatedDropdownFilter), "started_at")
    list_select_related = ("server", "actor")
    search_fields = ("server_name", "moves__relay__code", "moves__relay__owner__username")
    ordering = ("-id",)
    change_form_outer_before_template = "admin/fleet/evacuation.html"
    fields = (("server", "reason"), ("lost_at", "actor"), ("started_at", "ended_at"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Evacuation]:
        """With moves counted."""
        queryset: QuerySet[Evacuation] = super().get_queryset(request)
        return queryset.annotate(**_counts())

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With progress and every move."""
        evacuation = self.get_object(request, object_id)
        more = {}
        if evacuation:
            moves = evacuation.moves.select_related("relay__owner", "from_server", "to_server").order_by("id")
            shown = list(moves[:SHOWN])
            progress = progress_of(evacuation)
            more = {
                "evacuation": evacuation,
                "state": badge(evacuation.get_state_display(), STATE_COLOURS[evacuation.state]),
                "goes_on": evacuation.state == Evacuation.State.RUNNING or progress.placed,
                "progress": progress,
                "waiting": why_they_wait(progress),
                "took": span(evacuation.started_at, evacuation.ended_at),
                "steps": [_step(move) for move in shown],
                "has_more": progress.total > len(shown),
            }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **more})  # type: ignore[no-any-return]

    @display(description=gettext_lazy("server"), ordering="server_name")
    def show_server(self, evacuation: Evacuation) -> str:
        """As it was called then."""
        return evacuation.server_name

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, evacuation: Evacuation) -> str:
        """The state, coloured."""
        return badge(evacuation.get_state_display(), STATE_COLOURS[evacuation.state])

    @display(description=gettext_lazy("relays that answer / moved"))
    def show_progress(self, evacuation: Any) -> str:
        """Those that answer at their new place, of those that have set out."""
        return f"{evacuation.answered} / {evacuation.total}"

    @display(description=gettext_lazy("took"))
    def show_took(self, evacuation: Evacuation) -> str:
        """Until it ended, or until now."""
        return span(evacuation.started_at, evacuation.ended_at)


def _step(move: Move) -> Step:
    return Step(
        move=move,
        state=badge(move.get_state_display(), STATE_COLOURS[move.state]),
        why=trouble(move.waits_for) if move.state == Move.State.WAITING else "",
        before=before(move),
        after=after(move),
        took=span(move.created_at, move.ended_at),
    )


def why_they_wait(progress: Progress) -> list[str]:
    """Each reason in words, with how many relays wait for it, the commonest first."""
    reasons, untried = Counter(progress.waits_for), _("Not tried yet.")
    return [f"{trouble(code) or untried} ({count})" for code, count in reasons.most_common()]


@admin.register(ServerEvent)
class ServerEventAdmin(HistoryAdmin):
    """Everything that ever happened to servers."""

    list_display = ("created_at", "show_server", "kind", "show_detail")
    list_filter = ("kind", ("server", RelatedDropdownFilter), "created_at")
    list_select_related = ("server",)
    search_fields = ("server__name", "detail")

    @display(description=gettext_lazy("server"), ordering="server__name")
    def show_server(self, event: ServerEvent) -> str:
        """With a link."""
        return link(change_url(event.server), event.server)

    @display(description=gettext_lazy("detail"), empty_value="–")
    def show_detail(self, event: ServerEvent) -> str | None:
        """A code in words; everything else as it was written."""
        return trouble(event.detail) or None
