"""The fleet at one glance, for operators: totals, servers by region, versions, a map, and how far failovers are.

However many rows there are, each function asks the database a fixed number of times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

from django.db.models import Count, Q

from derp_portal.lib.clock import now
from derp_portal.lib.units import data_amount
from fleet.engines import fleet_image
from fleet.models import Alert, Evacuation, Move, MoveReason, Region, Relay, Server, Wanted
from fleet.runtimes.executables import IMAGE_AUTO
from fleet.services.evacuations import should_run_on

WORST_FIRST = (Server.Phase.UNHEALTHY, Server.Phase.SUSPECT, Server.Phase.RECOVERED, Server.Phase.HEALTHY)

MAP_WIDTH, MAP_HEIGHT = 720, 360
"""Two units a degree, so that a place's position is its longitude and latitude."""

LETTER, LINE = 6.5, 13
"""About how wide a letter of a label is, and how high a line."""


@dataclass(frozen=True, slots=True)
class Totals:
    """The whole fleet in a few numbers."""

    phases: list[tuple[Server.Phase, int]]
    draining: int
    relays_wanted: int
    relays_running: int
    relays_without_place: int
    moves_waiting: int
    moves_under_way: int
    alerts: int
    critical_alerts: int


@dataclass(frozen=True, slots=True)
class Version:
    """A relay image, and how many relays should run it."""

    image: str
    count: int

    @property
    def tag(self) -> str:
        """What tells it from the others at a glance; a digest cut short."""
        return self.image.rpartition("/")[2].rpartition(":")[2][:16]


@dataclass(frozen=True, slots=True)
class ServerLine:
    """A server with what its line of the table says. Shares are percent; None where there is no limit."""

    server: Any
    versions: list[Version]
    evacuation_id: int | None

    @property
    def load(self) -> int | None:
        """Relays placed, of the most it may carry."""
        return _percent(self.server.carried, self.server.max_relays)

    @property
    def allowance(self) -> int | None:
        """Of the provider's monthly traffic."""
        return _percent(self.server.allowance_used_bytes, self.server.allowance_bytes)

    @property
    def allowance_words(self) -> str:
        """What was used, and what there is."""
        return f"{data_amount(self.server.allowance_used_bytes)} / {data_amount(self.server.allowance_bytes)}"


@dataclass(slots=True)
class RegionTable:
    """A region with its servers, and in one word how it is."""

    region: Region
    lines: list[ServerLine] = field(default_factory=list)

    @property
    def phase(self) -> Server.Phase:
        """That of the server that is worst off."""
        phases = {line.server.phase for line in self.lines}
        return next((phase for phase in WORST_FIRST if phase in phases), Server.Phase.HEALTHY)

    @property
    def running(self) -> int:
        """Relays that run there."""
        return sum(line.server.running for line in self.lines)

    @property
    def carried(self) -> int:
        """Relays that have their place there."""
        return sum(line.server.carried for line in self.lines)


@dataclass(frozen=True, slots=True)
class Dot:
    """A region on the map. `label` is empty where it would lie over another one."""

    table: RegionTable
    x: float
    y: float
    radius: float
    label: str
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The whole fleet. Regions with a server in trouble come first."""

    totals: Totals
    tables: list[RegionTable]
    versions: list[Version]
    dots: list[Dot]

    def narrowed(self, *, region: str, phase: str) -> list[RegionTable]:
        """Tables of the region with that code, with servers in that phase; "" for all. Empty ones are left out."""
        tables = []
        for table in self.tables:
            lines = [line for line in table.lines if phase in ("", line.server.phase)]
            if lines and region in ("", table.region.code):
                tables.append(RegionTable(table.region, lines))
        return tables


def fleet_overview() -> Overview:
    """Everything as it is now."""
    tables, versions = _tables()
    return Overview(
        totals=_totals([line.server for table in tables for line in table.lines]),
        tables=tables,
        versions=_sorted(versions),
        dots=_dots(tables),
    )


def _tables() -> tuple[list[RegionTable], Counter[str]]:
    live = Q(relays__released_at=None)
    hosts = Server.objects.select_related("region").annotate(
        carried=Count("relays", filter=live),
        running=Count("relays", filter=live & Q(relays__observed_state=Relay.Observed.RUNNING)),
    )
    running = dict(Evacuation.objects.filter(state=Evacuation.State.RUNNING).values_list("server_id", "id"))
    by_server, everywhere = _versions()
    tables: dict[int, RegionTable] = {}
    for server in hosts.order_by("region__code", "name"):
        table = tables.setdefault(server.region_id, RegionTable(server.region))
        versions = _sorted(by_server.get(server.pk, Counter()))
        table.lines.append(ServerLine(server, versions, running.get(server.pk)))
    return sorted(tables.values(), key=lambda table: WORST_FIRST.index(table.phase)), everywhere


def _sorted(versions: Counter[str]) -> list[Version]:
    return [Version(image, count) for image, count in versions.most_common()]


def _versions() -> tuple[dict[int, Counter[str]], Counter[str]]:
    """Relay images with how many relays have each: by server, and in the whole fleet."""
    present = fleet_image()
    placed = Relay.objects.filter(released_at=None, server__isnull=False, wanted=Wanted.RUNNING)
    by_server: dict[int, Counter[str]] = {}
    everywhere: Counter[str] = Counter()
    rows = placed.order_by().values_list("server_id", "server__runtime", "image").annotate(count=Count("id"))
    for server_id, runtime, image, count in rows:
        name = _image(runtime, image, present)
        by_server.setdefault(server_id, Counter())[name] += count
        everywhere[name] += count
    return by_server, everywhere


def versions_on(server: Server) -> Counter[str]:
    """Relay images on one server, with how many of its relays have each."""
    present = fleet_image()
    live = server.relays.filter(released_at=None, wanted=Wanted.RUNNING)
    versions: Counter[str] = Counter()
    for image, count in live.order_by().values_list("image").annotate(count=Count("id")):
        versions[_image(server.runtime, image, present)] += count
    return versions


def _image(runtime: str, image: str, present: str) -> str:
    return IMAGE_AUTO if runtime == Server.Runtime.PROCESS else image or present


def _totals(hosts: Sequence[Server]) -> Totals:
    wanted = Q(wanted=Wanted.RUNNING, group__run_until__gt=now())
    relays = Relay.objects.filter(released_at=None).aggregate(
        due=Count("id", filter=wanted),
        up=Count("id", filter=wanted & Q(observed_state=Relay.Observed.RUNNING)),
        without=Count("id", filter=wanted & Q(server=None)),
    )
    moves = Move.objects.filter(state__in=Move.OPEN).aggregate(
        waiting=Count("id", filter=Q(state=Move.State.WAITING)),
        placed=Count("id", filter=Q(state=Move.State.PLACED)),
    )
    alerts = Alert.objects.filter(resolved=False).aggregate(
        open=Count("id"), critical=Count("id", filter=Q(severity=Alert.Severity.CRITICAL))
    )
    phases = Counter(host.phase for host in hosts)
    return Totals(
        phases=[(phase, phases[phase]) for phase in reversed(WORST_FIRST)],
        draining=sum(host.is_draining for host in hosts),
        relays_wanted=relays["due"],
        relays_running=relays["up"],
        relays_without_place=relays["without"],
        moves_waiting=moves["waiting"],
        moves_under_way=moves["placed"],
        alerts=alerts["open"],
        critical_alerts=alerts["critical"],
    )


def _percent(part: int, whole: int | None) -> int | None:
    return round(100 * part / whole) if whole else None


def _dots(tables: Iterable[RegionTable]) -> list[Dot]:
    """Regions that say where they are. What lies on top is what is worst off, then what is small."""
    placed = [table for table in tables if table.region.latitude or table.region.longitude]
    dots: list[Dot] = []
    taken = [_box_of(table) for table in placed]
    for table in sorted(placed, key=lambda table: (-WORST_FIRST.index(table.phase), -table.carried)):
        x, y, radius = _position(table)
        label, label_x, label_y, anchor = _label(table.region.local_name, x, y, radius, taken)
        dots.append(Dot(table, x, y, radius, label, label_x, label_y, anchor))
    return dots


def _position(table: RegionTable) -> tuple[float, float, float]:
    x, y = (table.region.longitude + 180) * 2, (90 - table.region.latitude) * 2
    return round(x, 1), round(y, 1), round(min(5 + sqrt(table.carried) / 2, 16), 1)


Box = tuple[float, float, float, float]


def _box_of(table: RegionTable) -> Box:
    x, y, radius = _position(table)
    return x - radius, y - radius, x + radius, y + radius


def _label(name: str, x: float, y: float, radius: float, taken: list[Box]) -> tuple[str, float, float, str]:
    """The name beside its dot, on the first side that is free; no name where none is. Notes what it has taken."""
    # Chinese letters are about twice as wide.
    width = sum(LETTER * (2 if ord(letter) > 0x2E80 else 1) for letter in name)
    gap = radius + 4
    sides = (
        (x + gap, y + 4, "start", x + gap),
        (x - gap, y + 4, "end", x - gap - width),
        (x, y - gap, "middle", x - width / 2),
        (x, y + gap + 9, "middle", x - width / 2),
    )
    for label_x, label_y, anchor, left in sides:
        box = (left, label_y - LINE + 3, left + width, label_y + 3)
        if left < 0 or left + width > MAP_WIDTH or any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        return name, round(label_x, 1), round(label_y, 1), anchor
    return "", x, y, "start"


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a failover is. `waits_for` has the reason of each move that waits, as a code."""

    answered: int
    placed: int
    waits_for: list[str]
    to_go: int
    held: int

    @property
    def total(self) -> int:
        """Relays that have left or have to."""
        return self.answered + self.placed + len(self.waits_for) + self.to_go

    @property
    def share(self) -> int:
        """Percent that answer at their new place."""
        return 100 * self.answered // self.total if self.total else 100


def progress_of(evacuation: Evacuation) -> Progress:
    """How far it is: relays that answer elsewhere, are being set up, wait, have yet to set out, or are held."""
    moves = evacuation.moves.aggregate(
        answered=Count("id", filter=Q(state=Move.State.ANSWERED)),
        placed=Count("id", filter=Q(state=Move.State.PLACED)),
    )
    waits_for = list(evacuation.moves.filter(state=Move.State.WAITING).values_list("waits_for", flat=True))
    to_go = held = 0
    if evacuation.state == Evacuation.State.RUNNING and evacuation.server_id:
        if evacuation.reason == MoveReason.DRAIN:
            there = Relay.objects.filter(server=evacuation.server_id, released_at=None)
        else:
            there = should_run_on(evacuation.server_id)
        there = there.exclude(pk__in=evacuation.moves.filter(state__in=Move.OPEN).values("relay"))
        counted = there.aggregate(all=Count("id"), held=Count("id", filter=Q(group__quarantined_at__isnull=False)))
        to_go, held = counted["all"] - counted["held"], counted["held"]
    return Progress(**moves, waits_for=waits_for, to_go=to_go, held=held)
