"""The tables that the system log is made of: in which order each is read, what is wanted of it, how a row reads."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar

from django.apps import apps
from django.db.models import Model, Q, QuerySet
from django.db.models.functions import Lower
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import AuditEntry, TaskFailure, User
from fleet.models import Alert, Evacuation, Move, MoveReason, Relay, RelayEvent, Server, ServerEvent
from fleet.services.alert_words import wording
from fleet.words import trouble

from .entries import Entry, Kind, Severity
from .words import audit_words

Row = TypeVar("Row", bound=Model)

THE_PORTAL = "system"
"""The name under which the audit trail keeps what nobody did by hand."""


@dataclass(frozen=True, slots=True)
class Position:
    """The last row that was shown of a table."""

    at: datetime
    pk: int


@dataclass(frozen=True, slots=True)
class Person:
    """Who is asked for: somebody, or the portal itself when there is no user."""

    user_id: int | None

    @classmethod
    def named(cls, name: str) -> Person | None:
        """The user of that name in any case; one with the id 0, who did nothing, for a name that nobody has."""
        if name.strip().lower() == THE_PORTAL:
            return cls(None)
        known = User.objects.alias(lower=Lower("username")).filter(lower=name.strip().lower())
        return cls(known.values_list("pk", flat=True).first() or 0)


@dataclass(frozen=True, slots=True)
class Objects:
    """What is asked for, as found by its name: exactly, so that an index finds its rows."""

    text: str
    servers: list[int]
    relays: list[int]
    users: list[int]
    targets: list[tuple[str, str]]

    @classmethod
    def named(cls, text: str) -> Objects:
        """Servers, relays and users of that name, or the one that `text` names as `kind:number`."""
        text = text.strip()
        users = User.objects.alias(lower=Lower("username")).filter(lower=text.lower())
        servers = list(Server.objects.filter(name__iexact=text).values_list("pk", flat=True))
        relays = list(Relay.objects.filter(code=text.lower()).values_list("pk", flat=True))
        people = list(users.values_list("pk", flat=True))
        targets = [("fleet.server", str(pk)) for pk in servers]
        targets += [("fleet.relay", str(pk)) for pk in relays]
        targets += [("accounts.user", str(pk)) for pk in people]
        kind, _colon, number = text.lower().partition(":")
        if number.isascii() and number.isdigit():
            # Longer numbers are of no row, and no column would take them.
            number = str(int(number[:18]))
            targets += [
                (model._meta.label_lower, number) for model in apps.get_models() if model._meta.model_name == kind
            ]
            servers += [int(number)] if kind == "server" else []
            relays += [int(number)] if kind == "relay" else []
        return cls(text, servers, relays, people, targets)


class Source(Generic[Row]):
    """One table. `chosen` says which rows are wanted, `rows` reads them, `show` makes a line of one."""

    name: ClassVar[str]
    """Stands for the table in cursors."""

    kind: ClassVar[Kind]
    model: ClassVar[type[Model]]
    related: ClassVar[tuple[str, ...]] = ()
    moment: ClassVar[str] = "created_at"
    has_time_index: ClassVar[bool] = False
    """Where there is none, rows are read by id: they are numbered in the order in which they came to be."""

    def at(self, row: Row) -> datetime:
        """When it happened."""
        moment: datetime = getattr(row, self.moment)
        return moment

    def chosen(self, *, severity: Severity | None, person: Person | None, objects: Objects | None) -> Q | None:
        """What the rows asked for have in common; None when there cannot be any."""
        conditions = [
            self.of_severity(severity) if severity else Q(),
            self.of_person(person) if person else Q(),
            self.of_objects(objects) if objects else Q(),
        ]
        if any(condition is None for condition in conditions):
            return None
        return Q(*(condition for condition in conditions if condition))

    def rows(self, chosen: Q, *, since: datetime | None, until: datetime, after: Position | None) -> QuerySet[Any, Any]:
        """Newest first, after that position; neither before `since` nor after `until`."""
        found: QuerySet[Any, Any] = self.model._default_manager.filter(chosen, **{f"{self.moment}__lte": until})
        if self.related:
            found = found.select_related(*self.related)
        if since:
            found = found.filter(**{f"{self.moment}__gte": since})
        if not self.has_time_index:
            return (found.filter(pk__lt=after.pk) if after else found).order_by("-pk")
        if after:
            # The first condition alone is what an index can be entered with.
            found = found.filter(
                Q(**{f"{self.moment}__lt": after.at}) | Q(pk__lt=after.pk), **{f"{self.moment}__lte": after.at}
            )
        return found.order_by(f"-{self.moment}", "-pk")

    def of_severity(self, severity: Severity) -> Q | None:
        """Rows of that severity."""
        raise NotImplementedError

    def of_person(self, person: Person) -> Q | None:
        """Rows of what the person did, or of what is theirs. By default a table knows of no person."""
        return None

    def of_objects(self, objects: Objects) -> Q | None:
        """Rows about one of them."""
        raise NotImplementedError

    def show(self, row: Row) -> Entry:
        """The row as a line of the log."""
        raise NotImplementedError

    def entry(self, row: Row, *, severity: Severity, object: str, message: str, person: str = "") -> Entry:
        """A line that leads to the row's own page in the admin."""
        page = f"admin:{row._meta.app_label}_{row._meta.model_name}_change"
        message = message[:1].upper() + message[1:]
        return Entry(self.at(row), self.kind, severity, person, object, message, reverse(page, args=[row.pk]))


def _by(field: str, values: Collection[Any]) -> Q | None:
    return Q(**{f"{field}__in": values}) if values else None


def _any(*conditions: Q | None) -> Q | None:
    """One of them at least; None when there is none that can hold."""
    possible = [condition for condition in conditions if condition is not None]
    return Q(*possible, _connector=Q.OR) if possible else None


def _severity_by_kind(
    severity: Severity, field: str, warnings: Collection[str], criticals: Collection[str] = ()
) -> Q | None:
    if severity == Severity.INFO:
        return ~Q(**{f"{field}__in": [*warnings, *criticals]})
    return _by(field, list(warnings if severity == Severity.WARNING else criticals))


def _severity_of(value: str, warnings: Collection[str], criticals: Collection[str] = ()) -> Severity:
    if value in criticals:
        return Severity.CRITICAL
    return Severity.WARNING if value in warnings else Severity.INFO


def _with_detail(words: Any, detail: str) -> str:
    """What happened, and the detail: a code in words, everything else as it was written."""
    return _("%(event)s: %(detail)s") % {"event": words, "detail": trouble(detail)} if detail else str(words)


class AuditSource(Source[AuditEntry]):
    name, kind, model, has_time_index = "audit", Kind.AUDIT, AuditEntry, True

    def of_severity(self, severity: Severity) -> Q | None:
        return Q() if severity == Severity.INFO else None

    def of_person(self, person: Person) -> Q | None:
        if person.user_id is None:
            return Q(actor=None)
        return Q(actor=person.user_id) | Q(target_type="accounts.user", target_id=str(person.user_id))

    def of_objects(self, objects: Objects) -> Q | None:
        return _any(*(Q(target_type=target_type, target_id=target_id) for target_type, target_id in objects.targets))

    def show(self, row: AuditEntry) -> Entry:
        return self.entry(
            row,
            severity=Severity.INFO,
            person=row.actor_label,
            object=row.target_label,
            message=audit_words(row.event),
        )


class ServerSource(Source[ServerEvent]):
    name, kind, model, related = "server", Kind.SERVER, ServerEvent, ("server",)
    warnings = (ServerEvent.Kind.SUSPECT, ServerEvent.Kind.ENGINE, ServerEvent.Kind.ALLOWANCE)
    criticals = (ServerEvent.Kind.UNHEALTHY,)

    def of_severity(self, severity: Severity) -> Q | None:
        return _severity_by_kind(severity, "kind", self.warnings, self.criticals)

    def of_objects(self, objects: Objects) -> Q | None:
        return _by("server", objects.servers)

    def show(self, row: ServerEvent) -> Entry:
        return self.entry(
            row,
            severity=_severity_of(row.kind, self.warnings, self.criticals),
            object=row.server.name,
            message=_with_detail(row.get_kind_display(), row.detail),
        )


class RelaySource(Source[RelayEvent]):
    name, kind, model, related, has_time_index = "relay", Kind.RELAY, RelayEvent, ("relay__owner",), True
    warnings = (RelayEvent.Kind.TROUBLE, RelayEvent.Kind.UNHEALTHY)

    def of_severity(self, severity: Severity) -> Q | None:
        return _severity_by_kind(severity, "kind", self.warnings)

    def of_person(self, person: Person) -> Q | None:
        return Q(relay__owner=person.user_id) if person.user_id else None

    def of_objects(self, objects: Objects) -> Q | None:
        return _any(_by("relay", objects.relays), _by("server", objects.servers))

    def show(self, row: RelayEvent) -> Entry:
        return self.entry(
            row,
            severity=_severity_of(row.kind, self.warnings),
            person=row.relay.owner.username,
            object=row.relay.code,
            message=_with_detail(row.get_kind_display(), row.detail),
        )


class EvacuationSource(Source[Evacuation]):
    name, kind, model, related, moment = "evacuation", Kind.FAILOVER, Evacuation, ("actor",), "started_at"
    warnings = (MoveReason.ALLOWANCE,)
    criticals = (MoveReason.FAILURE,)

    def of_severity(self, severity: Severity) -> Q | None:
        return _severity_by_kind(severity, "reason", self.warnings, self.criticals)

    def of_person(self, person: Person) -> Q | None:
        return Q(actor=person.user_id)

    def of_objects(self, objects: Objects) -> Q | None:
        return _any(_by("server", objects.servers), Q(server_name__iexact=objects.text))

    def show(self, row: Evacuation) -> Entry:
        words = _("Relays leave the server: %(reason)s (%(state)s)")
        return self.entry(
            row,
            severity=_severity_of(row.reason, self.warnings, self.criticals),
            person=row.actor.username if row.actor else THE_PORTAL,
            object=row.server_name,
            message=words % {"reason": row.get_reason_display(), "state": row.get_state_display()},
        )


class MoveSource(Source[Move]):
    name, kind, model = "move", Kind.FAILOVER, Move
    related = ("relay__owner", "from_server", "to_server")
    warnings = (MoveReason.FAILURE, MoveReason.RESCUE)

    def of_severity(self, severity: Severity) -> Q | None:
        return _severity_by_kind(severity, "reason", self.warnings)

    def of_person(self, person: Person) -> Q | None:
        return Q(relay__owner=person.user_id) if person.user_id else None

    def of_objects(self, objects: Objects) -> Q | None:
        return _any(
            _by("relay", objects.relays), _by("from_server", objects.servers), _by("to_server", objects.servers)
        )

    def show(self, row: Move) -> Entry:
        words = _("Relay moves from %(old)s to %(new)s: %(reason)s (%(state)s)")
        message = words % {
            "old": row.from_server or "–",
            "new": row.to_server or "–",
            "reason": row.get_reason_display(),
            "state": row.get_state_display(),
        }
        return self.entry(
            row,
            severity=_severity_of(row.reason, self.warnings),
            person=row.relay.owner.username,
            object=row.relay.code,
            message=message,
        )


class AlertSource(Source[Alert]):
    name, kind, model, related = "alert", Kind.ALERT, Alert, ("server", "relay", "acknowledged_by")

    def of_severity(self, severity: Severity) -> Q | None:
        return Q(severity=severity)

    def of_person(self, person: Person) -> Q | None:
        return Q(acknowledged_by=person.user_id) if person.user_id else None

    def of_objects(self, objects: Objects) -> Q | None:
        return _any(_by("server", objects.servers), _by("relay", objects.relays))

    def show(self, row: Alert) -> Entry:
        about = row.server or row.relay
        return self.entry(
            row,
            severity=Severity(row.severity),
            person=row.acknowledged_by.username if row.acknowledged_by else "",
            object=str(about) if about else "",
            message=wording(row),
        )


class TaskSource(Source[TaskFailure]):
    name, kind, model, has_time_index = "task", Kind.TASK, TaskFailure, True

    def of_severity(self, severity: Severity) -> Q | None:
        return Q() if severity == Severity.WARNING else None

    def of_objects(self, objects: Objects) -> Q | None:
        return Q(task__icontains=objects.text)

    def show(self, row: TaskFailure) -> Entry:
        return self.entry(
            row,
            severity=Severity.WARNING,
            object=f"{row.task}({row.arguments})",
            message=_("The task failed: %(error)s") % {"error": row.error},
        )


SOURCES: tuple[Source[Any], ...] = (
    AuditSource(),
    ServerSource(),
    RelaySource(),
    EvacuationSource(),
    MoveSource(),
    AlertSource(),
    TaskSource(),
)
