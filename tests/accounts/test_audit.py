"""The audit trail can be added to and read, nothing else."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, transaction
from django.test import Client

from accounts import request_ip
from accounts.models import AuditEntry, User
from accounts.services import change_role, record
from derp_portal.lib.append_only import Unchangeable
from derp_portal.lib.errors import PortalError


def test_an_entry_says_who_did_what_to_which_object_from_where(alice: User, root: User) -> None:
    with request_ip.remember("203.0.113.7"):
        entry = record(actor=root, event="user.renewed", target=alice, days=30)
    assert (entry.actor, entry.actor_label, entry.ip) == (root, "root", "203.0.113.7")
    assert (entry.target_type, entry.target_id, entry.target_label) == ("accounts.user", str(alice.pk), "alice")
    assert entry.data == {"days": 30}


def test_without_an_actor_it_was_the_portal_itself(alice: User) -> None:
    assert record(actor=None, event="lease.ended", target=alice).actor_label == "system"


def test_an_entry_is_never_changed_or_deleted(alice: User) -> None:
    entry = record(actor=alice, event="a.b", target=alice)
    entry.event = "c.d"
    with pytest.raises(Unchangeable):
        entry.save()
    with pytest.raises(Unchangeable):
        entry.delete()
    with pytest.raises(Unchangeable):
        AuditEntry.objects.update(event="c.d")
    with pytest.raises(Unchangeable):
        AuditEntry.objects.all().delete()
    with pytest.raises(Unchangeable):
        AuditEntry.objects.bulk_update([entry], ["event"])
    entry.refresh_from_db()
    assert entry.event == "a.b"


def test_a_new_entry_is_not_written_over_one_that_has_its_id(alice: User) -> None:
    entry = record(actor=alice, event="a.b", target=alice)
    with pytest.raises(IntegrityError), transaction.atomic():
        AuditEntry(pk=entry.pk, actor=alice, event="c.d").save()
    entry.refresh_from_db()
    assert entry.event == "a.b"


@pytest.mark.parametrize("name", ["password", "secret", "token"])
def test_a_secret_never_enters(alice: User, name: str) -> None:
    with pytest.raises(ValueError, match="secrets"):
        record(actor=alice, event="a.b", target=alice, **{name: "x"})


def test_a_change_of_role_is_recorded_once(alice: User, root: User) -> None:
    change_role(user_id=alice.pk, role="reseller", actor=root)
    change_role(user_id=alice.pk, role="reseller", actor=root)
    entry = AuditEntry.objects.get(event="user.role_changed")
    assert entry.data == {"before": "user", "after": "reseller"}


def test_nobody_changes_their_own_role(root: User) -> None:
    with pytest.raises(PortalError) as refusal:
        change_role(user_id=root.pk, role="user", actor=root)
    assert refusal.value.code == "own_role"


def test_a_login_is_in_the_trail_with_its_address(alice: User, client: Client) -> None:
    client.post("/accounts/login/", {"login": "alice", "password": "correct horse battery"}, REMOTE_ADDR="198.51.100.4")
    entry = AuditEntry.objects.get(event="user.logged_in")
    assert (entry.actor, entry.ip) == (alice, "198.51.100.4")
