"""The door on the host: the portal's answer while there is one, and what was answered before while there is none."""

from __future__ import annotations

import json
import platform
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fleet.reconciler.desired import FAILS_CLOSED
from fleet.runtimes.image import build_warden
from tests.fleet.derp_door import Door, open_door
from tests.fleet.engines import deadline_in, wait_until
from tests.fleet.test_warden import ARCHITECTURES, Warden
from tests.parts import need
from tests.ports import free_port

CHILD = "import sys, time; print('args', sys.argv[1:], flush=True); time.sleep(600)"
PHONE, OTHER = (f"nodekey:{number:064x}" for number in (1, 2))
SECRET = "s3cr3t"
REST = 3.5
"""The warden leaves a silent portal alone for three seconds."""


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("go")
    return build_warden(ARCHITECTURES[platform.machine()], tmp_path_factory.mktemp("warden"))


@pytest.fixture
def portal() -> Iterator[Door]:
    with open_door() as door:
        yield door


class Host:
    """A container's worth: a warden, its child that only tells its arguments, and the folder that outlives both."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.warden = Warden(program, folder)
        self.warden.set_deadline(deadline_in(3600))
        self.memory = folder / "door" / "admitted"
        self.memory.parent.mkdir()
        self.starts = 0

    def start(self, url: str, *flags: str) -> None:
        self.warden.command(
            *(sys.executable, "-c", CHILD, "-verify-client-url", url, *flags),
            env={"WARDEN_MEMORY": str(self.memory)},
        )
        self.starts += 1
        self.warden.wait_for("args", times=self.starts)

    def stop(self) -> None:
        if self.warden.process is not None:
            self.warden.process.kill()
            self.warden.process.wait()

    def door(self) -> str:
        """The address the child was told last: of a flag that is given twice the last counts."""
        told = re.findall(r"args (\[.*\])", self.warden.said())[-1]
        return re.findall(r"'-verify-client-url', '(http://127\.0\.0\.1:\d+/)'", told)[-1]

    def admits(self, node_key: str = PHONE) -> bool:
        answer = httpx.post(self.door(), json={"NodePublic": node_key, "Source": "198.51.100.7"}, timeout=60)
        assert answer.status_code == 200
        assert set(answer.json()) == {"Allow"}
        return bool(answer.json()["Allow"])


@pytest.fixture
def host(program: Path, tmp_path: Path) -> Iterator[Host]:
    one = Host(program, tmp_path)
    yield one
    one.stop()


def test_the_portals_answer_is_passed_on_with_the_question_as_it_was(host: Host, portal: Door) -> None:
    portal.refused = {OTHER}
    host.start(portal.url)
    assert host.admits(PHONE)
    assert not host.admits(OTHER)
    assert portal.asked == [{"NodePublic": key, "Source": "198.51.100.7"} for key in (PHONE, OTHER)]
    assert f"'{FAILS_CLOSED}']" in host.warden.said(), "a relay whose warden is silent lets nobody in"


def test_a_relay_that_fails_open_lets_everybody_in_while_the_portal_is_silent(host: Host) -> None:
    host.start(f"http://127.0.0.1:{free_port()}/derp/admit/{SECRET}")
    assert host.admits(PHONE)
    assert host.admits(OTHER)
    assert SECRET not in host.warden.said().replace("args", "", 1).partition("\n")[2]


def test_one_that_fails_closed_lets_in_whom_the_portal_let_in_before(host: Host, portal: Door) -> None:
    host.start(portal.url, FAILS_CLOSED)
    assert host.admits(PHONE)
    portal.status = 502
    assert host.admits(PHONE)
    assert not host.admits(OTHER)
    portal.status = 200
    time.sleep(REST)
    assert host.admits(OTHER)


@pytest.mark.parametrize("status", [301, 403, 404, 500, 502, 503])
def test_what_a_proxy_says_for_an_absent_portal_is_no_answer(host: Host, portal: Door, status: int) -> None:
    host.start(portal.url)
    portal.status = status
    assert host.admits(PHONE)


@pytest.mark.parametrize(
    "answer", [b"", b"null", b"{}", b'{"Allow": "yes"}', b"<html>", b'{"Allow": null}', b"[" * 5000]
)
def test_what_is_no_answer_is_taken_for_silence(host: Host, portal: Door, answer: bytes) -> None:
    host.start(portal.url, FAILS_CLOSED)
    portal.answer = answer
    assert not host.admits(PHONE)


def test_a_device_that_was_refused_since_is_not_remembered(host: Host, portal: Door) -> None:
    host.start(portal.url, FAILS_CLOSED)
    assert host.admits(PHONE)
    portal.refused = {PHONE}
    assert not host.admits(PHONE)
    portal.status = 502
    assert not host.admits(PHONE)


def test_who_was_let_in_is_known_after_a_restart_with_the_portal_away(host: Host, portal: Door) -> None:
    host.start(portal.url, FAILS_CLOSED)
    assert host.admits(PHONE)
    wait_until(lambda: host.memory.exists() and PHONE in host.memory.read_text(), what="a memory")
    assert host.memory.stat().st_mode & 0o077 == 0
    host.stop()
    portal.status = 502
    host.start(portal.url, FAILS_CLOSED)
    assert host.admits(PHONE)
    assert not host.admits(OTHER)


def test_a_garbled_memory_is_none(host: Host, portal: Door) -> None:
    host.memory.write_bytes(b"\xff\x00 nonsense\n" + PHONE.encode() + b" soon\n\n" + OTHER.encode())
    portal.status = 502
    host.start(portal.url, FAILS_CLOSED)
    assert not host.admits(PHONE)
    assert not host.admits(OTHER)


def test_a_silent_portal_is_left_alone_so_that_clients_do_not_wait(host: Host, portal: Door) -> None:
    portal.status = 502
    host.start(portal.url)
    began = time.monotonic()
    for _ in range(20):
        assert host.admits()
    # Once, when twenty questions take less than its rest.
    assert len(portal.asked) <= 1 + (time.monotonic() - began) // 3


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"x" * 10_000, b'{"NodePublic": 3}'])
def test_what_is_no_question_gets_no_answer(host: Host, portal: Door, body: bytes) -> None:
    host.start(portal.url)
    assert httpx.post(host.door(), content=body, timeout=60).status_code == 400
    assert portal.asked == []


def test_a_program_without_a_door_is_run_as_it_is(host: Host) -> None:
    host.warden.command(sys.executable, "-c", CHILD, "-a", ":443")
    host.warden.wait_for("args")
    assert json.dumps(["-a", ":443"]).replace('"', "'") in host.warden.said()
