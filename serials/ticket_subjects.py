"""Leases as something that tickets are about: `lease:12`."""

from __future__ import annotations

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.subjects import Subject
from derp_portal.lib.ids import id_in
from serials.models import Lease

OFFERED = 50


def lease_choices(user: User) -> list[Subject]:
    """A person's leases, those that run first."""
    leases = Lease.objects.filter(user=user).order_by("status", "-id")  # "active" is the first word of the three.
    return [_subject(lease, user) for lease in leases[:OFFERED]]


def lease_subject(lease_id: int) -> str:
    """How tickets name the lease."""
    return f"lease:{lease_id}"


def find_lease(key: str, reader: User) -> Subject | None:
    """The lease of that id; its page is there for its owner, the admin's for staff, none for its seller."""
    lease_id = id_in(key)
    lease = None if lease_id is None else Lease.objects.filter(pk=lease_id).first()
    return _subject(lease, reader) if lease else None


def _subject(lease: Lease, reader: User) -> Subject:
    url = ""
    if lease.user_id == reader.pk:
        url = reverse("lease", args=[lease.pk])
    elif reader.is_staff:
        url = reverse("admin:serials_lease_change", args=[lease.pk])
    label = _("Lease “%(name)s”") % {"name": lease.name}
    return Subject(lease_subject(lease.pk), label, lease.user_id, str(lease.get_status_display()), url)
