"""Asking a customer's control server which devices it knows: Tailscale's API, or that of a Headscale."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from derp_portal.lib.outbound import Answer, OutboundFailure, fetch
from fleet.derp.keys import parse_node_key
from fleet.models import ControlServer

TAILSCALE = "https://api.tailscale.com"
LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class Device:
    """A device as its control server knows it; `remote_id` stays when the key is renewed."""

    key: str
    name: str
    remote_id: str


def devices_of(server: ControlServer) -> list[Device]:
    """All of them. Raises OutboundFailure, also `denied`, `not_found` and `bad_answer`."""
    if server.kind == ControlServer.Kind.HEADSCALE:
        url = f"{server.address.rstrip('/')}/api/v1/node"
        nodes = _list(fetch("GET", url, headers=_bearer(server.credential)), "nodes")
        return _devices(nodes, names=("givenName", "name"), ids=("id",))
    tailnet = quote(server.tailnet or "-", safe="")
    url = f"{TAILSCALE}/api/v2/tailnet/{tailnet}/devices"
    nodes = _list(fetch("GET", url, headers=_bearer(tailscale_token(server))), "devices")
    return _devices(nodes, names=("hostname", "name"), ids=("nodeId", "id"))


def tailscale_token(server: ControlServer) -> str:
    """What opens Tailscale's API: the key itself, or an hour's token for an OAuth client."""
    if not server.client_id:
        return str(server.credential)
    form = {"client_id": server.client_id, "client_secret": server.credential, "grant_type": "client_credentials"}
    token = read(fetch("POST", f"{TAILSCALE}/api/v2/oauth/token", data=form)).get("access_token")
    if not isinstance(token, str) or not token:
        raise OutboundFailure("bad_answer")
    return token


def _bearer(secret: str) -> dict[str, str]:
    if not secret.isascii() or not secret.isprintable():
        raise OutboundFailure("denied")
    return {"Authorization": f"Bearer {secret}", "Accept": "application/json"}


def read(answer: Answer) -> dict[str, Any]:
    """The JSON object of a good answer. Raises OutboundFailure."""
    check(answer)
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise OutboundFailure("bad_answer") from error
    if not isinstance(body, dict):
        raise OutboundFailure("bad_answer")
    return body


def check(answer: Answer) -> None:
    """Raises OutboundFailure for a status that is not a good one."""
    if answer.status in (400, 401, 403):
        raise OutboundFailure("denied", f"status {answer.status}")
    if answer.status == 404:
        raise OutboundFailure("not_found")
    if answer.status != 200:
        raise OutboundFailure("unreachable" if answer.status >= 500 else "bad_answer", f"status {answer.status}")


def _list(answer: Answer, name: str) -> list[Any]:
    found = read(answer).get(name)
    if not isinstance(found, list):
        raise OutboundFailure("bad_answer")
    return found


def _devices(nodes: Iterable[Any], *, names: tuple[str, ...], ids: tuple[str, ...]) -> list[Device]:
    found: dict[str, Device] = {}
    for node in nodes:
        if not isinstance(node, dict):
            raise OutboundFailure("bad_answer")
        try:
            key = parse_node_key(str(node.get("nodeKey", "")))
        except ValueError:
            # A device that is not signed in has none.
            continue
        found[key] = Device(key, _first(node, names), _first(node, ids))
    return list(found.values())


def _first(node: dict[str, Any], names: Iterable[str]) -> str:
    """Without what a database does not take (zeros, halves of pairs) or nobody can see."""
    found = next((str(node[name]) for name in names if node.get(name)), "")
    return "".join(letter for letter in found[:LONGEST_NAME] if letter.isprintable())
