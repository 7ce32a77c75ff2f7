"""The audit trail: who did what to which object, when, from which address."""

from __future__ import annotations

from typing import Any

from django.db.models import Model

from accounts import request_ip
from accounts.models import AuditEntry, User

# A guard against slips; naming a secret's prefix or id is fine.
NEVER_RECORDED = frozenset({"password", "secret", "token", "digest", "private_key", "key"})


def record(
    *, actor: User | None, event: str, target: Model | None = None, ip: str | None = None, **data: Any
) -> AuditEntry:
    """Add one line to the audit trail, in the transaction of what it tells about.

    `event` is dotted, object first (`lease.ended`). No `actor` means the portal itself. `ip` is by default that of
    the present request. `data` must fit into JSON (dates and decimals do) and must never hold a secret: raises
    ValueError for names that promise one.
    """
    if slips := NEVER_RECORDED & data.keys():
        raise ValueError(f"secrets do not belong into the audit trail: {', '.join(sorted(slips))}")
    entry = AuditEntry(
        actor=actor,
        actor_label=actor.get_username() if actor else "system",
        event=event,
        target_type=target._meta.label_lower if target is not None else "",
        target_id=str(target.pk) if target is not None else "",
        target_label=str(target)[:200] if target is not None else "",
        ip=ip or request_ip.current(),
        data=data,
    )
    entry.save()
    return entry
