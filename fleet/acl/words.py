"""What changed between two versions of a policy, in words."""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.formats import localize
from django.utils.functional import Promise
from django.utils.timezone import localtime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext_lazy

from derp_portal.lib.wording import enumeration
from fleet.models import AclConfig

MODE_LABELS: dict[str, Promise] = {
    AclConfig.Mode.CLOSED: pgettext_lazy("door", "closed"),
    AclConfig.Mode.LEARN: pgettext_lazy("door", "learning"),
    AclConfig.Mode.OPEN: pgettext_lazy("door", "open"),
    AclConfig.Mode.DELEGATE: pgettext_lazy("door", "asking your own Headscale"),
}
"""Modes in a word, where their sentences are too long."""

NAMED = 3
"""So many devices or networks are named; of the others their number is."""


def differences(before: AclConfig | None, after: AclConfig) -> Iterator[str]:
    """A few words for each thing that changed; of the first version what it says."""
    if before is None or before.mode != after.mode:
        yield str(MODE_LABELS[after.mode])
    if after.learns_until and (before is None or before.learns_until != after.learns_until):
        yield _("learns until %(moment)s") % {"moment": localize(localtime(after.learns_until))}
    old = {device["key"]: device["name"] for device in before.devices} if before else {}
    new = {device["key"]: device["name"] for device in after.devices}
    yield from _said(
        _("device added: %(names)s"), [name or f"{key[:16]}…" for key, name in new.items() if key not in old]
    )
    yield from _said(
        _("device removed: %(names)s"), [name or f"{key[:16]}…" for key, name in old.items() if key not in new]
    )
    networks = list(before.networks) if before else []
    yield from _said(_("network added: %(names)s"), [one for one in after.networks if one not in networks])
    yield from _said(_("network removed: %(names)s"), [one for one in networks if one not in after.networks])
    servers = list(before.servers) if before else []
    if servers != list(after.servers):
        count = len(after.servers)
        limited = ngettext("limited to %(count)s server", "limited to %(count)s servers", count) % {"count": count}
        yield limited if count else _("on any server")


def _said(sentence: str, names: list[str]) -> Iterator[str]:
    if not names:
        return
    rest = len(names) - NAMED
    more = ngettext("and %(count)s more", "and %(count)s more", rest) % {"count": rest} if rest > 0 else ""
    yield sentence % {"names": f"{enumeration(names[:NAMED])} {more}".rstrip()}
