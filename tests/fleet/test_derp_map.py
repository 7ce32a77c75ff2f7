"""Derp maps and identities: what a customer's control plane and devices are told."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from fleet.derp.identity import (
    certificate_stem,
    covers,
    make_identity,
    new_host_name,
    pin_of,
    relay_files,
)
from fleet.derp.map import NodeSpec, derp_map, headscale_yaml, policy_snippet

HONG_KONG = NodeSpec(
    region_id=951,
    region_code="hk1",
    region_name="香港 “one”: #1",
    host_name="r7k2.relay.internal",
    cert_name="sha256-raw:" + "ab" * 32,
    ipv4="203.0.113.7",
    derp_port=21043,
    stun_port=21043,
    latitude=22.3,
    longitude=114.2,
)
TOKYO = NodeSpec(950, "tyo", "Tokyo", "r9.relay.internal", ipv4="198.51.100.1", ipv6="2001:db8::1")


def test_two_relays_make_two_one_node_regions_in_tailscales_form() -> None:
    body = derp_map([HONG_KONG, TOKYO])
    assert list(body) == ["Regions"]
    assert list(body["Regions"]) == ["950", "951"]
    assert body["Regions"]["951"] == {
        "RegionID": 951,
        "RegionCode": "hk1",
        "RegionName": HONG_KONG.region_name,
        "Latitude": 22.3,
        "Longitude": 114.2,
        "Nodes": [
            {
                "Name": "951a",
                "RegionID": 951,
                "HostName": "r7k2.relay.internal",
                "CertName": HONG_KONG.cert_name,
                "IPv4": "203.0.113.7",
                "IPv6": "none",
                "DERPPort": 21043,
                "STUNPort": 21043,
            }
        ],
    }


def test_default_regions_are_omitted_only_on_request() -> None:
    assert derp_map([TOKYO], omit_default=True)["OmitDefaultRegions"] is True
    assert "OmitDefaultRegions" not in policy_snippet([TOKYO])


def test_a_relay_without_an_address_is_left_to_dns() -> None:
    node = derp_map([replace(TOKYO, ipv4="", ipv6="")])["Regions"]["950"]["Nodes"][0]
    assert "IPv4" not in node and "IPv6" not in node


@pytest.mark.parametrize("nodes", [[], [TOKYO, replace(HONG_KONG, region_id=950)]])
def test_an_empty_map_and_a_region_id_claimed_twice_are_refused(nodes: list[NodeSpec]) -> None:
    for build in (derp_map, headscale_yaml, policy_snippet):
        with pytest.raises(ValueError):
            build(nodes)


@pytest.mark.parametrize(
    "change",
    [
        {"region_id": 1},
        {"region_id": 1000},
        {"region_name": ""},
        {"region_name": "two\nlines"},
        {"host_name": "a\x85b"},
        {"derp_port": 0},
        {"stun_port": 0},
        {"stun_port": 70000},
        {"ipv4": "relay.example"},
        {"ipv6": "203.0.113.7"},
    ],
)
def test_a_relay_that_clients_would_misread_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(TOKYO, **change)  # type: ignore[arg-type]


def test_the_headscale_file_is_block_yaml_with_lower_case_keys() -> None:
    assert headscale_yaml([HONG_KONG]) == (
        "regions:\n"
        "  951:\n"
        "    regionid: 951\n"
        '    regioncode: "hk1"\n'
        '    regionname: "香港 “one”: #1"\n'
        "    latitude: 22.3\n"
        "    longitude: 114.2\n"
        "    nodes:\n"
        '      - name: "951a"\n'
        "        regionid: 951\n"
        '        hostname: "r7k2.relay.internal"\n'
        f'        certname: "{HONG_KONG.cert_name}"\n'
        '        ipv4: "203.0.113.7"\n'
        '        ipv6: "none"\n'
        "        derpport: 21043\n"
        "        stunport: 21043\n"
    )


names = st.text(min_size=1).filter(str.isprintable)
nodes = st.lists(
    st.builds(
        NodeSpec,
        st.integers(900, 999),
        names,
        names,
        names,
        ipv4=st.ip_addresses(v=4).map(str),
        derp_port=st.integers(1, 65535),
        stun_port=st.integers(1, 65535) | st.just(-1),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda node: node.region_id,
)


@given(nodes, st.booleans())
def test_a_pasted_snippet_says_the_same_as_the_map(nodes: list[NodeSpec], omit: bool) -> None:
    snippet = policy_snippet(nodes, omit)
    assert snippet.endswith("},\n")
    assert json.loads("{" + snippet.removesuffix(",\n") + "}") == {"derpMap": derp_map(nodes, omit)}


@given(nodes)
def test_every_line_of_the_headscale_file_is_one_member(nodes: list[NodeSpec]) -> None:
    lines = headscale_yaml(nodes).splitlines()
    assert len(lines) == 1 + sum(5 + len(r["Nodes"][0]) for r in derp_map(nodes)["Regions"].values())
    for line in lines:
        value = line.partition(":")[2].strip()
        assert value == "" or isinstance(json.loads(value), str | int | float)


@pytest.mark.parametrize("host_name", ["r7k2.relay.internal", "203.0.113.7", "2001:db8::1"])
def test_an_identity_is_one_certificate_pinned_and_valid_for_its_host_name(host_name: str) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    identity = make_identity(host_name, now=now)
    certificate = x509.load_pem_x509_certificate(identity.cert_pem.encode())
    assert covers(certificate, host_name)
    assert not covers(certificate, "other.relay.internal")
    assert identity.pin == "sha256-raw:" + certificate.fingerprint(hashes.SHA256()).hex()
    assert identity.not_after == certificate.not_valid_after_utc == now + timedelta(days=397)
    # Apple's limit.
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < timedelta(days=398)
    assert identity.private_key not in repr(identity) and identity.key_pem not in repr(identity)


def test_no_two_identities_are_alike() -> None:
    one, other = make_identity("a.relay.internal"), make_identity("a.relay.internal")
    assert one.pin != other.pin
    assert one.private_key != other.private_key


def test_a_relay_gets_its_files_under_the_names_derper_looks_for() -> None:
    assert set(relay_files(make_identity("2001:db8::1"), "2001:db8::1")) == {
        "derper.key",
        "2001db81.crt",
        "2001db81.key",
    }
    assert certificate_stem("r7k2.relay.internal") == "r7k2.relay.internal"


def test_host_names_are_lower_case_and_under_a_name_nobody_can_register() -> None:
    assert new_host_name("R7K2") == "r7k2.relay.internal"
    for broken in ("", "a.b", "-a", "a-", "a_b", "ü", "a" * 64):
        with pytest.raises(ValueError):
            new_host_name(broken)


def test_a_pin_names_exactly_these_bytes() -> None:
    assert pin_of(b"") == "sha256-raw:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
