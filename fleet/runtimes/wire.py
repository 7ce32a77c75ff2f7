"""What `ProcessRuntime` and `relayd` say to each other: one JSON object per line, each way.

Request: `{"op": "start", "name": "…"}`. Answer: `{"ok": true, "result": …}` or
`{"ok": false, "kind": "rejected"|"unavailable", "code": "…", "detail": "…"}`.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .base import FILE_NAME, PLAIN_NAME, Rejected, RelaySpec

LINE_LIMIT = 4 * 1024 * 1024
"""Longest line either side reads, in bytes. A request carries one relay's files at most."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What the daemon keeps of a `RelaySpec`. Not the files: those hold keys and live in the volume."""

    name: str
    volume: str
    image: str
    args: list[str]
    env: dict[str, str]
    port: int
    bind_ip: str
    labels: dict[str, str]

    def __post_init__(self) -> None:
        """Check what came over the wire; raises `Rejected("invalid_spec")`."""
        lists_and_maps = isinstance(self.args, list) and isinstance(self.env, dict) and isinstance(self.labels, dict)
        if not lists_and_maps or type(self.port) is not int or not 1 <= self.port <= 65535:
            raise Rejected("invalid_spec", "a field has the wrong type")
        texts = [self.name, self.volume, self.image, self.bind_ip, *self.args]
        for mapping in (self.env, self.labels):
            texts += [*mapping.keys(), *mapping.values()]
        if not all(isinstance(text, str) and "\0" not in text for text in texts):
            raise Rejected("invalid_spec", "a field has the wrong type")
        for name in (self.name, self.volume):
            if not PLAIN_NAME.fullmatch(name):
                raise Rejected("invalid_spec", f"{name!r} is not a plain name")
        try:
            ipaddress.ip_address(self.bind_ip or "::")
        except ValueError as error:
            raise Rejected("invalid_spec", str(error)) from error


def pack_spec(spec: RelaySpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "volume": spec.volume,
        "image": spec.image,
        "args": list(spec.args),
        "env": dict(spec.env),
        "port": spec.port,
        "bind_ip": spec.bind_ip,
        "labels": spec.labels,
    }


def pack_files(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def unpack_files(packed: Any) -> dict[str, bytes]:
    """The files by name; raises `Rejected("invalid_spec")` for anything that is not a plain name and base64."""
    try:
        files = {name: base64.b64decode(content, validate=True) for name, content in packed.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise Rejected("invalid_spec", f"files: {error}") from error
    for name in files:
        if not FILE_NAME.fullmatch(name):
            raise Rejected("invalid_spec", f"{name!r} is not a plain name")
    return files


def pack(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
