"""The portal's own authority: making it, keeping its client certificate fresh, and giving hosts what they need."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction

from accounts.models import User
from accounts.services import record
from derp_portal.lib.clock import days, now
from fleet.enrolment import pki
from fleet.enrolment.script import HostKeys, ScriptOptions, check_address, enrol_script
from fleet.models import Authority

RENEW_WITHIN = days(60)


def authority() -> Authority:
    """The portal's one authority, made on first need. Whoever is first wins, and all get the same."""
    found = Authority.objects.first()
    if found is not None:
        return found
    fresh = _new_authority()
    try:
        with transaction.atomic():
            fresh.save()
            record(actor=None, event="authority.made", target=fresh, fingerprint=pki.fingerprint(fresh.ca_certificate))
    except IntegrityError:
        # Another worker was first: its authority is the one everybody uses.
        return Authority.objects.get()
    return fresh


def renew_client_certificate(within: timedelta = RENEW_WITHIN) -> bool:
    """Issue the portal's client certificate anew when it ends `within` that time; say whether that was done.

    Engines trust the authority, so nothing changes on the hosts. Without an authority there is nothing to renew.
    """
    with transaction.atomic():
        held = Authority.objects.select_for_update(no_key=True).first()
        if held is None or held.client_ends_at > now() + within:
            return False
        client = pki.issue_client_certificate(_signer(held), settings.PORTAL_ID, now=now())
        held.client_certificate, held.client_key = client.cert_pem, client.key_pem
        held.client_ends_at = pki.ends_at(client.cert_pem)
        held.save(update_fields=["client_certificate", "client_key", "client_ends_at"])
        record(actor=None, event="authority.client_renewed", target=held, ends_at=held.client_ends_at)
    return True


def issue_engine_certificate(address: str, *, actor: User | None = None) -> tuple[str, str]:
    """Issue a certificate and its key, both PEM, for the engine at `address` (IP or DNS name). The key is not kept.

    Earlier certificates for the address stay valid. Raises PortalError `invalid_enrolment`.
    """
    check_address(address)
    with transaction.atomic():
        held = authority()
        issued = pki.issue_engine_certificate(_signer(held), address, now=now())
        record(
            actor=actor,
            event="authority.certificate_issued",
            target=held,
            address=address,
            fingerprint=pki.fingerprint(issued.cert_pem),
            ends_at=pki.ends_at(issued.cert_pem),
        )
    return issued.cert_pem, issued.key_pem


def enrolment_script(*, address: str, actor: User | None, **choices: Any) -> str:
    """The script that prepares the host at `address`; `choices` are the other fields of `ScriptOptions`.

    For tls a certificate is issued, and the script holds its key. Raises PortalError `invalid_enrolment`, and then
    nothing was issued.
    """
    options = ScriptOptions(address=address, **choices)
    options.check()
    with transaction.atomic():
        held = authority()
        if options.transport == "tls":
            cert_pem, key_pem = issue_engine_certificate(address, actor=actor)
            keys = HostKeys(ca_pem=held.ca_certificate, cert_pem=cert_pem, key_pem=key_pem)
        else:
            keys = HostKeys(ssh_public_key=held.ssh_public_key)
        record(actor=actor, event="authority.script_made", target=held, address=address, transport=options.transport)
        return enrol_script(options, keys)


def _new_authority() -> Authority:
    signer = pki.make_authority(settings.PORTAL_ID, now=now())
    client = pki.issue_client_certificate(signer, settings.PORTAL_ID, now=now())
    ssh = pki.make_ssh_key(settings.PORTAL_ID)
    return Authority(
        ca_certificate=signer.cert_pem,
        ca_key=signer.key_pem,
        client_certificate=client.cert_pem,
        client_key=client.key_pem,
        client_ends_at=pki.ends_at(client.cert_pem),
        ssh_public_key=ssh.public_key,
        ssh_private_key=ssh.private_key,
    )


def _signer(held: Authority) -> pki.Certified:
    return pki.Certified(held.ca_certificate, held.ca_key)
