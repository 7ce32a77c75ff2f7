"""X25519 keys as Tailscale and derper write them.

Raw keys are 32 `bytes`; text keys carry their kind: `privkey:<64 hex>` and `nodekey:<64 hex>`.
"""

from __future__ import annotations

import json
import secrets

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.public import PrivateKey

KEY_LENGTH = 32
PRIVATE_PREFIX = "privkey:"
NODE_PREFIX = "nodekey:"
_HEX_DIGITS = frozenset("0123456789abcdef")


def new_private() -> bytes:
    """Return a fresh private key from the system's randomness."""
    return _clamp(secrets.token_bytes(KEY_LENGTH))


def derive_private(secret: bytes, label: str) -> bytes:
    """Return the private key that belongs to `label` under `secret`: always the same for the same pair.

    Keys of different labels tell nothing about each other or about the secret (HKDF-SHA256).
    Raises ValueError on an empty secret, because everybody could derive those keys.
    """
    if not secret:
        raise ValueError("the secret is empty")
    hkdf = HKDF(algorithm=SHA256(), length=KEY_LENGTH, salt=None, info=b"derp node key\x00" + label.encode())
    return _clamp(hkdf.derive(secret))


def public_of(private: bytes) -> bytes:
    """Return the public key of a raw private key."""
    return bytes(PrivateKey(private).public_key)


def format_private(private: bytes) -> str:
    """Write a raw private key as `privkey:<64 hex>`."""
    return PRIVATE_PREFIX + _checked(private).hex()


def parse_private(text: str) -> bytes:
    """Read `privkey:<64 hex>`. Raises ValueError, which never repeats the key."""
    return _parse(text, PRIVATE_PREFIX)


def format_node_key(public: bytes) -> str:
    """Write a raw public key as `nodekey:<64 hex>`."""
    return NODE_PREFIX + _checked(public).hex()


def node_key_bytes(text: str) -> bytes:
    """Read `nodekey:<64 hex>` into the raw public key. Raises ValueError."""
    return _parse(text, NODE_PREFIX)


def parse_node_key(text: str) -> str:
    """Return the one canonical spelling (lower case, no white space around) of a node key, or raise ValueError."""
    return format_node_key(node_key_bytes(text))


def derper_key_file(private_key: str) -> bytes:
    """Return the content of derper's `-c` file for a `privkey:` key."""
    parse_private(private_key)
    return json.dumps({"PrivateKey": private_key}).encode() + b"\n"


def read_derper_key_file(content: bytes) -> bytes:
    """Return the raw private key in derper's `-c` file. Raises ValueError."""
    body = json.loads(content)
    if not isinstance(body, dict) or not isinstance(body.get("PrivateKey"), str):
        raise ValueError("the key file holds no PrivateKey")
    return parse_private(body["PrivateKey"])


def _clamp(raw: bytes) -> bytes:
    # Tailscale stores keys clamped; an unclamped one would change its spelling when a Tailscale tool rewrites it.
    key = bytearray(raw)
    key[0] &= 248
    key[31] = (key[31] & 127) | 64
    return bytes(key)


def _checked(raw: bytes) -> bytes:
    if len(raw) != KEY_LENGTH:
        raise ValueError(f"a key has {KEY_LENGTH} bytes, not {len(raw)}")
    return raw


def _parse(text: str, prefix: str) -> bytes:
    folded = text.strip().lower()
    digits = folded.removeprefix(prefix)
    if digits == folded or len(digits) != 2 * KEY_LENGTH or not _HEX_DIGITS.issuperset(digits):
        raise ValueError(f"expected {prefix} followed by {2 * KEY_LENGTH} hex digits")
    raw = bytes.fromhex(digits)
    if not any(raw):
        # Tailscale's spelling of "no key at all".
        raise ValueError("the key is zero")
    return raw
