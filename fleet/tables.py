"""The lists customers read about their devices and relays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import django_tables2 as tables
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.tables import TIME_CELL
from derp_portal.lib.wording import statements
from fleet.acl.words import differences
from fleet.models import AclConfig, AclLog, Knock, Move, NodeKey, RelayEvent
from fleet.selectors import why_it_happened, why_it_moved
from fleet.services.acl import LEARNED
from fleet.services.control_servers import SYNCED


class DevicesTable(tables.Table):
    """The devices a customer has listed."""

    name = tables.Column(verbose_name=_("Name"), empty_values=())
    key = tables.TemplateColumn('<code class="text-break">{{ value }}</code>', verbose_name=_("Node key"))
    source = tables.Column(verbose_name=_("Source"), accessor="get_source_display", order_by="source")
    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Added"))
    last_seen_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Last seen"))
    actions = tables.TemplateColumn(
        template_name="fleet/device_actions.html", verbose_name="", orderable=False, empty_values=()
    )

    class Meta:
        attrs = {"aria_label": _("Devices")}
        empty_text = _("No device found")
        order_by = "-created_at"

    def render_name(self, record: NodeKey) -> str:
        """The name, or a dash for a device that has none."""
        return record.name or "–"


class EventTable(tables.Table):
    """What happened to a customer's relays."""

    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("When"))
    kind = tables.Column(verbose_name=_("Event"), accessor="get_kind_display", order_by="kind")
    relay = tables.TemplateColumn("<code>{{ value.code }}</code>", verbose_name=_("Relay"), order_by="relay__code")
    region = tables.Column(verbose_name=_("Region"), accessor="server__region", order_by="server__region__code")
    detail = tables.Column(verbose_name=_("Why"), orderable=False, empty_values=())

    class Meta:
        attrs = {"aria_label": _("Relay events")}
        empty_text = _("No event found")
        order_by = "-created_at"

    def render_detail(self, record: RelayEvent) -> str:
        """The reason in words; what the engine said is for operators."""
        return why_it_happened(record) or "–"


class MoveTable(tables.Table):
    """Where a customer's relays have moved; by regions, since the servers' names are for operators."""

    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("When"))
    relay = tables.TemplateColumn("<code>{{ value.code }}</code>", verbose_name=_("Relay"), order_by="relay__code")
    source = tables.Column(
        verbose_name=pgettext_lazy("place", "From"),
        accessor="from_server__region",
        order_by="from_server__region__code",
    )
    target = tables.Column(
        verbose_name=pgettext_lazy("place", "To"), accessor="to_server__region", order_by="to_server__region__code"
    )
    reason = tables.Column(verbose_name=_("Why"), order_by="reason")
    state = tables.Column(verbose_name=_("State"), order_by="state")

    class Meta:
        attrs = {"aria_label": _("Moves of your relays")}
        empty_text = _("No relay of yours has moved")
        order_by = "-created_at"

    def render_reason(self, record: Move) -> str:
        """The reason as customers read it."""
        return why_it_moved(record)

    def render_state(self, record: Move) -> str:
        """How far it is."""
        return record.get_state_display()


class KnockTable(tables.Table):
    """Devices that were turned away and wait for their owner's word."""

    node_key = tables.TemplateColumn('<code class="text-break">{{ value }}</code>', verbose_name=_("Node key"))
    ip_address = tables.Column(verbose_name=_("Address"), orderable=False)
    times = tables.Column(verbose_name=_("Times"))
    last_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Last tried"))
    actions = tables.TemplateColumn(
        template_name="fleet/knock_actions.html", verbose_name="", orderable=False, empty_values=()
    )

    class Meta:
        attrs = {"aria_label": _("Devices that knocked")}
        empty_text = _("Nobody has knocked")
        order_by = "-last_at"
        prefix = "knock-"

    def render_ip_address(self, record: Knock) -> str:
        """With the country."""
        return f"{record.ip_address} · {record.location}" if record.location else str(record.ip_address)


class DoorLogTable(tables.Table):
    """What the doors answered."""

    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("When"))
    is_allowed = tables.TemplateColumn(
        template_name="fleet/door_answer.html", verbose_name=pgettext_lazy("door", "Answer")
    )
    reason = tables.Column(verbose_name=_("Why"), accessor="get_reason_display", order_by="reason")
    device = tables.Column(verbose_name=_("Device"), empty_values=(), orderable=False)
    ip_address = tables.Column(verbose_name=_("Address"), orderable=False)
    relay = tables.TemplateColumn("<code>{{ value.code }}</code>", verbose_name=_("Relay"), orderable=False)

    class Meta:
        attrs = {"aria_label": _("Who knocked")}
        empty_text = pgettext_lazy("let in or not", "Nobody has knocked")
        order_by = "-created_at"

    def __init__(self, *args: Any, names: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.names = names

    def render_device(self, record: AclLog) -> str:
        """Its name where it is listed, else the beginning of its key."""
        return self.names.get(record.node_key) or f"{record.node_key[:20]}…"

    def render_ip_address(self, record: AclLog) -> str:
        """With the country."""
        return f"{record.ip_address} · {record.location}" if record.location else str(record.ip_address)


REASONS = {LEARNED: _("the time to learn was over"), SYNCED: _("from your control server")}


class VersionTable(tables.Table):
    """The versions of a policy, newest first."""

    version = tables.Column(verbose_name=_("Version"))
    created_at = tables.TemplateColumn(TIME_CELL, verbose_name=_("Set"))
    mode = tables.Column(verbose_name=_("Mode"), accessor="get_mode_display", order_by="mode")
    changes = tables.Column(verbose_name=_("What changed"), empty_values=(), orderable=False)
    author = tables.Column(verbose_name=_("By"), empty_values=(), orderable=False)
    reason = tables.Column(verbose_name=_("Why"), orderable=False)
    actions = tables.TemplateColumn(
        template_name="fleet/version_actions.html", verbose_name="", orderable=False, empty_values=()
    )

    class Meta:
        attrs = {"aria_label": _("Versions")}
        empty_text = _("No version found")
        order_by = "-version"

    def __init__(self, *args: Any, before: Mapping[int, AclConfig], **options: Any) -> None:
        super().__init__(*args, **options)
        self.before = before

    def render_changes(self, record: AclConfig) -> str:
        """Against the version before."""
        return statements(differences(self.before.get(record.version - 1), record)) or "–"

    def render_author(self, record: AclConfig) -> str:
        """The customer, staff, or nobody: it happened by itself."""
        if record.author_id is None:
            return str(_("by itself"))
        return str(_("you") if record.author_id == record.user_id else _("our staff"))

    def render_reason(self, value: str) -> str:
        """Reasons of the portal's own are codes."""
        return str(REASONS.get(value, value))
