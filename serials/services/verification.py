"""Does this serial, this user and this server resource belong together? What is verified is the binding, no device."""

from __future__ import annotations

from dataclasses import dataclass

from fleet.selectors import ownership_of
from serials.codes import canonical
from serials.models import Binding, LeaseTerm


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` says why not: `unknown_serial`, `other_user`, `other_relay`, `other_server` or `over`."""

    valid: bool
    reason: str = ""


def verify_binding(*, code: str, user_id: int, relay_code: str | None = None, server_id: int | None = None) -> Verdict:
    """Check a serial against a user and, if named, a relay and the server it runs on."""
    binding = Binding.objects.select_related("term__lease", "relay_group").filter(serial__code=canonical(code)).first()
    if binding is None:
        return Verdict(False, "unknown_serial")
    if binding.user_id != user_id:
        return Verdict(False, "other_user")
    if relay_code is not None:
        owned = ownership_of(relay_code)
        if owned is None or owned.group_id != binding.relay_group_id:
            return Verdict(False, "other_relay")
        servers = {owned.server_id}
    else:
        live = binding.relay_group.relays.filter(released_at=None)
        servers = set(live.values_list("server_id", flat=True)) if server_id is not None else set()
    if server_id is not None and server_id not in servers:
        return Verdict(False, "other_server")
    if binding.term.state == LeaseTerm.State.DONE or not binding.term.lease.is_active:
        return Verdict(False, "over")
    return Verdict(True)
