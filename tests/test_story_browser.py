"""The whole story as a newcomer lives it: `manage.py run`, a browser, the mail on disk, a relay that answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from email import message_from_bytes
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from fleet.derp.client import DerpClient
from fleet.derp.errors import RelayFailure
from fleet.derp.keys import format_node_key, new_private, public_of
from tests.parts import need
from tests.portals import ROOT, Portal, portal

pytestmark = pytest.mark.xdist_group("portals")

ADMIN_PASSWORD = "an operator's long password"
PASSWORD = "a customer's long password"

PATIENCE = 60
"""Seconds to wait for what takes one or two: a whole portal, a relay and a browser share the machine with others."""


@pytest.fixture
def running(data: Path, port: int) -> Iterator[Portal]:
    need("chromium")
    with portal(data, port, ADMIN_PASSWORD=ADMIN_PASSWORD) as started:
        yield started


class Api:
    """The JSON API, as a program uses it."""

    def __init__(self, address: str) -> None:
        self.address, self.token = address, ""

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{self.address}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            content: dict[str, Any] = json.load(answer)
        return content

    def log_in(self, email: str, password: str) -> None:
        self.token = str(self.call("user/login", {"email": email, "password": password})["token"])


def newest_link(mail_dir: Path, marker: str, *, seconds: float = PATIENCE) -> str:
    """The newest address with `marker` in the mails on disk, waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for path in sorted(mail_dir.glob("*.log"), key=lambda file: file.stat().st_mtime, reverse=True):
            body = message_from_bytes(path.read_bytes(), policy=default).get_body(("plain",))
            found = re.search(rf"https?://\S*{marker}\S*", body.get_content() if body else "")
            if found:
                return found.group()
        time.sleep(0.2)
    raise AssertionError(f"no mail with {marker} came")


def exchange(node: dict[str, Any]) -> bytes:
    """Send a packet from one new device to another through the relay that a map's node names."""
    place = {"ip": node["IPv4"], "port": node["DERPPort"], "host_name": node["HostName"], "pin": node["CertName"]}
    key_a, key_b = new_private(), new_private()
    clients = [DerpClient(**place, private_key=key, timeout=PATIENCE / 2) for key in (key_a, key_b)]
    with clients[0] as one, clients[1] as other:
        one.ping()
        other.ping()
        one.send_packet(format_node_key(public_of(key_b)), b"through the relay")
        return other.recv().payload


def shift_lease_into_the_past(started: Portal) -> None:
    """As if the lease had begun long ago: its end was a minute ago. Nothing is told; the sweep must find it."""
    script = """
from datetime import timedelta
from django.db.models import F
from django.utils import timezone
from fleet.models import RelayGroup
from serials.models import Lease, LeaseTerm
lease = Lease.objects.get()
back = lease.ends_at - timezone.now() + timedelta(minutes=1)
LeaseTerm.objects.update(starts_at=F("starts_at") - back, ends_at=F("ends_at") - back)
Lease.objects.update(ends_at=lease.ends_at - back)
RelayGroup.objects.update(run_until=lease.ends_at - back)
"""
    subprocess.run(
        [sys.executable, "manage.py", "shell", "-c", script],
        cwd=ROOT,
        env={"DATA_DIR": str(started.data), "PORT": str(started.port), "PATH": "/usr/bin:/bin"},
        check=True,
        timeout=180,
    )


def sign_up(page: Page, address: str, started: Portal) -> None:
    page.goto(f"{address}/accounts/signup/")
    page.get_by_label("Username").fill("carol")
    page.get_by_label("Email").fill("carol@example.com")
    page.locator("input[name=password1]").fill(PASSWORD)
    page.locator("input[name=password2]").fill(PASSWORD)
    # The proof of work is worked out by the browser once the box is ticked.
    page.locator("altcha-widget input[type=checkbox]").click()
    expect(page.locator("altcha-widget .altcha[data-state=verified]")).to_be_visible()
    page.get_by_role("button", name="Sign Up").click()
    expect(page.get_by_text(str(started.data / "mail"))).to_be_visible()
    page.goto(newest_link(started.data / "mail", "confirm-email"))
    page.get_by_role("button", name="Confirm").click()
    # Going elsewhere at once could call it off.
    expect(page).not_to_have_url(re.compile("confirm-email"))


def test_sign_up_redeem_own_a_running_relay_and_lose_it_at_expiry(running: Portal, page: Page) -> None:
    address = f"http://127.0.0.1:{running.port}"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    operator = Api(address)
    operator.log_in("admin@example.com", ADMIN_PASSWORD)
    [code] = operator.call("serial/generate", {"plan": "3-days"})["serial_numbers"]

    sign_up(page, address, running)
    page.goto(f"{address}/redeem/")
    page.locator("input[name=code]").fill(code.lower())
    page.get_by_role("button", name="Continue").click()
    page.get_by_role("button", name="Redeem now").click()

    # Without a reload: the page itself learns that the relay runs and what its map is.
    expect(page.locator("article .pill-ok")).to_be_visible()
    page.get_by_role("button", name="Copy").first.click()
    expect(page.locator("#live")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    regions = json.loads("{" + copied.strip().rstrip(",") + "}")["derpMap"]["Regions"]
    [node] = [node for region in regions.values() for node in region["Nodes"]]
    assert exchange(node) == b"through the relay"

    customer = Api(address)
    customer.log_in("carol@example.com", PASSWORD)
    answer = customer.call("acl/derpmap")
    assert list(answer["derp_map"]["Regions"]) == list(regions)

    shift_lease_into_the_past(running)
    deadline = time.monotonic() + 2 * PATIENCE
    while True:
        try:
            exchange(node)
        except RelayFailure:
            break
        assert time.monotonic() < deadline, f"the relay outlived its lease:\n{running.said[-3000:]}"
        time.sleep(0.5)
    page.goto(f"{address}/history/")
    expect(page.get_by_text("3 days").first).to_be_visible()
    # The map stays a map, so that a Headscale that polls it can still start.
    with urllib.request.urlopen(answer["map_url"], timeout=PATIENCE) as polled:
        assert json.load(polled)["Regions"]
