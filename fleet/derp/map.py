"""The derp map: what a customer's control plane needs to know of the relays. Pure: no network, no database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

FIRST_REGION_ID, LAST_REGION_ID = 900, 999
"""The ids that Tailscale keeps free for its users' own regions."""

NO_STUN = -1
_NO_ADDRESS = "none"


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One relay, which is also a region of its own. Addresses are "" when the relay has none of that family.

    `cert_name` is a `sha256-raw:` pin, or "" when a public authority signed the certificate.
    `stun_port` may be -1 for no STUN. Latitude and longitude are degrees.
    """

    region_id: int
    region_code: str
    region_name: str
    host_name: str
    cert_name: str = ""
    ipv4: str = ""
    ipv6: str = ""
    derp_port: int = 443
    stun_port: int = 3478
    latitude: float | None = None
    longitude: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError on what a client or a YAML reader would misread."""
        if not FIRST_REGION_ID <= self.region_id <= LAST_REGION_ID:
            raise ValueError(f"region id {self.region_id} is not within {FIRST_REGION_ID} to {LAST_REGION_ID}")
        for text in (self.region_code, self.region_name, self.host_name):
            if not text or not text.isprintable():
                raise ValueError("region code, region name and host name must be printable and not empty")
        if not self.cert_name.isprintable():
            raise ValueError("the certificate name must be printable")
        # Zero means "the default port" in a derp map, so it must not slip in as "not set".
        if not 1 <= self.derp_port <= 65535 or not (self.stun_port == NO_STUN or 1 <= self.stun_port <= 65535):
            raise ValueError("a port is out of range")
        if self.ipv4:
            IPv4Address(self.ipv4)
        if self.ipv6:
            IPv6Address(self.ipv6)


def derp_map(nodes: Sequence[NodeSpec], omit_default: bool = False) -> dict[str, Any]:
    """Return the map in Tailscale's JSON form, one single-node region per relay, in order of region id.

    With `omit_default`, Tailscale's own regions are dropped by control planes that honour it.
    Raises ValueError when two relays claim the same region id, and when there is no relay at all: a map without
    regions stops a Headscale server from starting.
    """
    if not nodes:
        raise ValueError("a derp map needs at least one relay")
    if len({node.region_id for node in nodes}) != len(nodes):
        raise ValueError("two relays claim the same region id")
    regions = {str(node.region_id): _region(node) for node in sorted(nodes, key=lambda node: node.region_id)}
    # Go reads member names in any case; this spelling is the one Tailscale documents for the policy file.
    return {"OmitDefaultRegions": True, "Regions": regions} if omit_default else {"Regions": regions}


def headscale_yaml(nodes: Sequence[NodeSpec]) -> str:
    """Return the map as a file for Headscale's `derp.paths`. Raises ValueError like `derp_map`.

    There is no way to omit the default regions here: Headscale does that in its own configuration.
    """
    lines = ["regions:"]
    for region_id, region in derp_map(nodes)["Regions"].items():
        lines.append(f"  {region_id}:")
        lines += _yaml_members(region, indent="    ", skip="Nodes")
        lines.append("    nodes:")
        for node in region["Nodes"]:
            members = _yaml_members(node, indent="        ")
            lines += ["      - " + members[0].lstrip(), *members[1:]]
    return "\n".join(lines) + "\n"


def policy_snippet(nodes: Sequence[NodeSpec], omit_default: bool = False) -> str:
    """Return the member to paste between the outer braces of a Tailscale policy file. Raises like `derp_map`.

    It ends in a comma, which that format (HuJSON) allows after the last member too: it may be pasted anywhere.
    """
    body = json.dumps(derp_map(nodes, omit_default), indent="\t", ensure_ascii=False)
    return f'"derpMap": {body},\n'


def _region(node: NodeSpec) -> dict[str, Any]:
    region: dict[str, Any] = {
        "RegionID": node.region_id,
        "RegionCode": node.region_code,
        "RegionName": node.region_name,
    }
    if node.latitude is not None and node.longitude is not None:
        region |= {"Latitude": node.latitude, "Longitude": node.longitude}
    return region | {"Nodes": [_node(node)]}


def _node(node: NodeSpec) -> dict[str, Any]:
    body: dict[str, Any] = {"Name": f"{node.region_id}a", "RegionID": node.region_id, "HostName": node.host_name}
    if node.cert_name:
        body["CertName"] = node.cert_name
    if node.ipv4 or node.ipv6:
        # A family left out would be looked up in DNS, where a resolver that forges answers for names that do not
        # exist could send clients elsewhere. "none" is the documented word against that.
        body |= {"IPv4": node.ipv4 or _NO_ADDRESS, "IPv6": node.ipv6 or _NO_ADDRESS}
    return body | {"DERPPort": node.derp_port, "STUNPort": node.stun_port}


def _yaml_members(members: dict[str, Any], *, indent: str, skip: str = "") -> list[str]:
    return [f"{indent}{name.lower()}: {_yaml_scalar(value)}" for name, value in _kept(members, skip)]


def _kept(members: dict[str, Any], skip: str) -> Iterable[tuple[str, Any]]:
    return ((name, value) for name, value in members.items() if name != skip)


def _yaml_scalar(value: str | int | float) -> str:
    # A JSON string of printable characters is a double-quoted YAML scalar; JSON numbers are YAML numbers.
    return json.dumps(value, ensure_ascii=False)
