"""What the gateways with signed messages share: keys as operators paste them, and HTTP that ends."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)
from django.utils.functional import Promise
from django.utils.translation import gettext

from billing.gateways.base import REFERENCE_LENGTH, WINDOW, SettingField, Unavailable
from derp_portal.lib.outbound import Answer, OutboundFailure, check_url, fetch

SECONDS = 15.0
"""For connecting, for each piece of an answer, and for the answer as a whole."""

CHINA = timezone(timedelta(hours=8), "CST")
"""Fixed: it has had no summer time since 1991, and a small machine may lack the zone's file."""

SHORTEST_KEY = 2048
LONGEST_PAYER = 200

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)
_REFERENCE = re.compile(rf"[A-Z0-9]{{1,{REFERENCE_LENGTH}}}")


def settings_of(fields: Iterable[SettingField], settings: Mapping[str, str]) -> dict[str, str]:
    """Every field's value without blanks around it, "" for optional ones that are missing. Raises ValueError."""
    found = {field.name: str(settings.get(field.name) or "").strip() for field in fields}
    for field in fields:
        if field.is_required and not found[field.name]:
            raise ValueError(gettext("“%(field)s” is missing.") % {"field": field.label})
    return found


def endpoint(text: str, *, default: str, label: Promise | str) -> str:
    """Where the gateway is spoken to. Raises ValueError for what is no plain https address."""
    url = text or default
    try:
        check_url(url)
    except OutboundFailure as error:
        # A machine of the operator's own is for them to allow (OUTBOUND_ALLOWED_NETWORKS), when it is asked.
        if error.code != "private_address":
            raise ValueError(gettext("“%(field)s” is not a web address.") % {"field": label}) from error
    if not url.startswith(("https://", "http://127.0.0.1:")) or "?" in url or "#" in url:
        raise ValueError(
            gettext("“%(field)s” must begin with https:// and have nothing after the path.") % {"field": label}
        )
    return url


def private_key(text: str, *, label: Promise | str) -> RSAPrivateKey:
    """An RSA key from PEM or bare base64, PKCS#1 or PKCS#8, line breaks or none. Raises ValueError, without the key."""
    kind, der = _der(text, label)
    if kind.startswith("ENCRYPTED"):
        raise ValueError(gettext("“%(field)s” is locked with a password. Paste it unlocked.") % {"field": label})
    if "PUBLIC" in kind or kind == "CERTIFICATE":
        raise ValueError(gettext("“%(field)s” must be a private key, not a public one.") % {"field": label})
    try:
        key = load_der_private_key(der, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(gettext("“%(field)s” is not a private key that can be read.") % {"field": label}) from error
    if not isinstance(key, RSAPrivateKey):
        raise ValueError(gettext("“%(field)s” is not an RSA key.") % {"field": label})
    _check_size(key.key_size, label)
    return key


def public_key(text: str, *, label: Promise | str, ours: RSAPrivateKey) -> RSAPublicKey:
    """The other side's RSA key from PEM or bare base64. Raises ValueError.

    Also for the public half of `ours`: the consoles show both, and pasting the wrong one is the usual mistake.
    """
    kind, der = _der(text, label)
    if kind == "CERTIFICATE":
        raise ValueError(
            gettext("“%(field)s” is a certificate. Paste the public key that the console shows.") % {"field": label}
        )
    if "PRIVATE" in kind:
        raise ValueError(gettext("“%(field)s” must be a public key, not a private one.") % {"field": label})
    try:
        key = load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError(gettext("“%(field)s” is not a public key that can be read.") % {"field": label}) from error
    if not isinstance(key, RSAPublicKey):
        raise ValueError(gettext("“%(field)s” is not an RSA key.") % {"field": label})
    _check_size(key.key_size, label)
    if key.public_numbers() == ours.public_key().public_numbers():
        raise ValueError(
            gettext("“%(field)s” belongs to your own private key. Paste the one that the payment service shows.")
            % {"field": label}
        )
    return key


def private_pem(key: RSAPrivateKey) -> str:
    """As both SDKs read it: PKCS#8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: RSAPublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _der(text: str, label: Promise | str) -> tuple[str, bytes]:
    """What the text says it is ("" for bare base64), and the bytes in it."""
    found = _PEM.search(text.replace("\\n", "\n"))
    kind, body = (found[1], found[2]) if found else ("", text)
    try:
        return kind, base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise ValueError(
            gettext("“%(field)s” is not a key: paste the whole file, or the whole line of letters.") % {"field": label}
        ) from error


def _check_size(bits: int, label: Promise | str) -> None:
    if bits < SHORTEST_KEY:
        raise ValueError(gettext("“%(field)s” is too short: the key must have 2048 bits.") % {"field": label})


def ask(method: str, url: str, *, headers: Mapping[str, str], content: bytes | None = None) -> Answer:
    """What the gateway answers, whatever the status. Nothing is taken from the environment. Raises Unavailable."""
    try:
        return fetch(method, url, headers=headers, content=content, seconds=SECONDS)
    except OutboundFailure as error:
        raise Unavailable(error.code, str(error)) from error


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """The JSON object, or None for whatever else it is."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def reference_in(value: object) -> str:
    """The value, if it can be a reference of ours; else ""."""
    return value if isinstance(value, str) and _REFERENCE.fullmatch(value) else ""


def payer_in(said: Mapping[str, Any], *names: str) -> str:
    """The first of these that names an account, as texts or numbers do; else ""."""
    for name in names:
        value = said.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            return str(value).strip()[:LONGEST_PAYER]
    return ""


def is_near(signed_at: datetime, received_at: datetime) -> bool:
    """Whether a message was signed about when it came in."""
    return abs(received_at - signed_at) <= WINDOW


def now() -> datetime:
    """The second, as signed messages write it."""
    return datetime.now(UTC).replace(microsecond=0)


def clip(text: str, size: int) -> str:
    """At most so many bytes of UTF-8, no letter cut in half."""
    return text.encode(errors="replace")[:size].decode(errors="ignore")
