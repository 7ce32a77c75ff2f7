"""From the moment a host is cut off until its relay answers elsewhere: real hosts, real workers, a real beat."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings

from accounts.models import User
from derp_portal.lib.clock import days, now
from fleet.models import Move, Region, RelayHealth, Server
from fleet.services import GroupTerms, create_group
from tests.fleet.hosts import Authority, DockerHost

SLACK_SECONDS = 5
ROOT = Path(__file__).resolve().parents[1]


def measure(images: Path) -> None:
    """Print the time beside its target, the grace and five seconds."""
    with ExitStack() as stack:
        authority = Authority("bench authority")
        hosts = [DockerHost(authority, images) for _ in range(2)]
        for host in hosts:
            stack.callback(host.destroy)
            host.boot()
            host.pull_image()
        os.environ["ADMISSION_URL"] = f"http://{hosts[0].gateway}:9"  # Nobody there: the relay lets clients in.
        Server.objects.update(is_enabled=False)
        for number, host in enumerate(hosts):
            _enrol(host, number)
        stack.enter_context(_portal())
        owner, _made = User.objects.get_or_create(username="moved", defaults={"email": "moved@example.com"})
        group = create_group(
            owner=owner, label="", run_until=now() + days(1), terms=GroupTerms(relay_count=1), actor=None
        )
        healthy = RelayHealth.objects.filter(relay__group=group, status=RelayHealth.Status.HEALTHY)
        _wait(healthy.exists, 120, "the relay")
        relay = group.relays.select_related("server").get()
        assert relay.server is not None
        cut_at = now()
        next(host for host in hosts if host.ip == relay.server.ip).cut()
        moved = Move.objects.filter(relay=relay, state=Move.State.ANSWERED)
        _wait(moved.exists, settings.FAILOVER_GRACE_SECONDS + 120, "the failover")
        ended = moved.get().ended_at
        assert ended is not None
        taken = (ended - cut_at).total_seconds()
    target = settings.FAILOVER_GRACE_SECONDS + SLACK_SECONDS
    print(
        f"{'cut to the new relay answering':<46} {taken / target:6.2f} x the target "
        f"({taken:.1f} s / {target} s, grace {settings.FAILOVER_GRACE_SECONDS} s)",
        flush=True,
    )


def _enrol(host: DockerHost, number: int) -> Server:
    region, _made = Region.objects.get_or_create(code="bench", defaults={"name": "Bench"})
    return Server.objects.create(
        name=f"host-{number}",
        ip=host.ip,
        region=region,
        endpoint=host.tcp_endpoint,
        tls_ca=host.ca_pem,
        tls_certificate=host.cert_pem,
        tls_key=host.key_pem,
        port_first=21000,
        port_last=21099,
    )


@contextmanager
def _portal() -> Iterator[None]:
    """Workers and beat as `make run` starts them."""
    celery = [sys.executable, "-m", "celery", "--quiet", "-A", "derp_portal"]
    worker = ["worker", "-P", "threads", "-c", "4", "--without-gossip", "--without-mingle", "--without-heartbeat", "-Q"]
    commands: list[list[str]] = [
        [*celery, *worker, ",".join(settings.CELERY_QUEUES)],
        [*celery, *worker, ",".join(settings.CELERY_SLOW_QUEUES)],
        [*celery, "beat", "--pidfile="],
    ]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": ROOT}
    processes = [subprocess.Popen(command, **quiet) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(is_true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.2)
