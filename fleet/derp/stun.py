"""STUN binding requests and answers (RFC 5389), as far as Tailscale clients and derper use them.

derper answers only requests that carry Tailscale's SOFTWARE attribute and end in a FINGERPRINT.
"""

from __future__ import annotations

import binascii
import secrets
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

MAGIC_COOKIE = 0x2112A442
HEADER_LENGTH = 20
TRANSACTION_LENGTH = 12

_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_XOR_MAPPED_ADDRESS = 0x0020
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
_TAILSCALE = b"tailnode"
_FINGERPRINT_XOR = 0x5354554E
_FAMILY_V4, _FAMILY_V6 = 1, 2

_HEADER = struct.Struct(f">HHI{TRANSACTION_LENGTH}s")
_ATTRIBUTE = struct.Struct(">HH")
_ADDRESS = struct.Struct(">xBH")


class StunError(ValueError):
    """The datagram is not the STUN message that was expected."""


class Binding(NamedTuple):
    """The address and port under which a relay saw the request, and the transaction it answers."""

    transaction: bytes
    address: IPv4Address | IPv6Address
    port: int


def new_transaction() -> bytes:
    return secrets.token_bytes(TRANSACTION_LENGTH)


def encode_request(transaction: bytes) -> bytes:
    """Return a binding request that derper answers."""
    software = _ATTRIBUTE.pack(_SOFTWARE, len(_TAILSCALE)) + _TAILSCALE
    length = len(software) + _ATTRIBUTE.size + 4
    message = _HEADER.pack(_BINDING_REQUEST, length, MAGIC_COOKIE, transaction) + software
    return message + _ATTRIBUTE.pack(_FINGERPRINT, 4) + _fingerprint(message)


def decode_request(datagram: bytes) -> bytes:
    """Return the transaction of a Tailscale client's binding request. Raises StunError on anything else."""
    kind, transaction, body = _split(datagram)
    if kind != _BINDING_REQUEST:
        raise StunError("not a binding request")
    attributes = list(_attributes(body))
    if (_SOFTWARE, _TAILSCALE) not in attributes:
        raise StunError("not from a Tailscale client")
    if not attributes or attributes[-1] != (_FINGERPRINT, _fingerprint(datagram[: -_ATTRIBUTE.size - 4])):
        raise StunError("no valid fingerprint at the end")
    return transaction


def encode_response(transaction: bytes, host: str, port: int) -> bytes:
    """Return the answer that tells a client its address. IPv4 seen through an IPv6 socket counts as IPv4."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    family = _FAMILY_V4 if address.version == 4 else _FAMILY_V6
    value = _ADDRESS.pack(family, port ^ (MAGIC_COOKIE >> 16)) + _mask(address.packed, transaction)
    body = _ATTRIBUTE.pack(_XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(_BINDING_SUCCESS, len(body), MAGIC_COOKIE, transaction) + body


def decode_response(datagram: bytes) -> Binding:
    """Return what a relay saw. Raises StunError."""
    kind, transaction, body = _split(datagram)
    if kind != _BINDING_SUCCESS:
        raise StunError("not a binding success")
    for attribute, value in _attributes(body):
        if attribute == _XOR_MAPPED_ADDRESS:
            return _binding(transaction, value)
    raise StunError("the answer holds no address")


def _binding(transaction: bytes, value: bytes) -> Binding:
    if len(value) < _ADDRESS.size:
        raise StunError("the address is cut short")
    family, port = _ADDRESS.unpack_from(value)
    packed = _mask(value[_ADDRESS.size :], transaction)
    port ^= MAGIC_COOKIE >> 16
    if family == _FAMILY_V4 and len(packed) == 4:
        return Binding(transaction, IPv4Address(packed), port)
    if family == _FAMILY_V6 and len(packed) == 16:
        return Binding(transaction, IPv6Address(packed), port)
    raise StunError("the address is of no known family")


def _split(datagram: bytes) -> tuple[int, bytes, bytes]:
    if len(datagram) < HEADER_LENGTH:
        raise StunError("too short for STUN")
    kind, length, cookie, transaction = _HEADER.unpack_from(datagram)
    if cookie != MAGIC_COOKIE or length != len(datagram) - HEADER_LENGTH:
        raise StunError("not a STUN message")
    return kind, transaction, datagram[HEADER_LENGTH:]


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    while body:
        if len(body) < _ATTRIBUTE.size:
            raise StunError("an attribute is cut short")
        attribute, length = _ATTRIBUTE.unpack_from(body)
        padded = _ATTRIBUTE.size + (length + 3) // 4 * 4
        if len(body) < padded:
            raise StunError("an attribute is cut short")
        yield attribute, body[_ATTRIBUTE.size : _ATTRIBUTE.size + length]
        body = body[padded:]


def _fingerprint(message: bytes) -> bytes:
    return (binascii.crc32(message) ^ _FINGERPRINT_XOR).to_bytes(4)


def _mask(packed: bytes, transaction: bytes) -> bytes:
    pad = MAGIC_COOKIE.to_bytes(4) + transaction
    # Not strict: an IPv4 address uses the first four bytes of the pad; longer input is refused by its family.
    return bytes(a ^ b for a, b in zip(packed, pad, strict=False))
