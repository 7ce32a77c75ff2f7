"""A real Headscale for tests, on loopback, with one source of its derp map."""

from __future__ import annotations

import json
import secrets
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx

from tests.fleet.engines import wait_until
from tests.parts import need
from tests.ports import free_port

CONFIG = """
server_url: {url}
listen_addr: 127.0.0.1:{port}
metrics_listen_addr: ""
grpc_listen_addr: 127.0.0.1:{grpc}
noise: {{private_key_path: {home}/noise.key}}
prefixes: {{v4: 100.64.0.0/10, v6: "fd7a:115c:a1e0::/48"}}
derp: {{server: {{enabled: false}}, urls: [{map_url}], paths: [], auto_update_enabled: true, update_frequency: 3h}}
database: {{type: sqlite, sqlite: {{path: {home}/db.sqlite}}}}
dns: {{magic_dns: false, override_local_dns: false, base_domain: tail.example, nameservers: {{global: []}}}}
unix_socket: {home}/hs.sock
disable_check_updates: true
"""


class Headscale:
    """Started, stopped and started again on the same database. `home` is short: a Unix socket's path must be."""

    def __init__(self, home: Path, map_url: str) -> None:
        self.program = need("headscale")
        self.home = home
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        text = CONFIG.format(url=self.url, port=port, grpc=free_port(), home=home, map_url=json.dumps(map_url))
        (home / "config.yaml").write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Raises AssertionError with its log when it does not come up, as it does not without a map."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [self.program, "serve", "-c", self.home / "config.yaml"], stdout=log, stderr=log
            )
        wait_until(self._is_settled, seconds=120, what="Headscale, up or ended")
        assert self.is_up(), self.log.read_text()[-2000:]

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def log(self) -> Path:
        return self.home / "log"

    def is_up(self) -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=10).status_code == 200
        return False

    def _is_settled(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or self.is_up()

    def api_key(self) -> str:
        return self._say("apikeys", "create").splitlines()[-1].strip()

    def add_user(self, name: str) -> None:
        self._say("users", "create", name)

    def add_node(self, user: str, name: str) -> None:
        key = f"hskey-authreq-{secrets.token_urlsafe(18)[:24]}"
        self._say("debug", "create-node", "--name", name, "--user", user, "--key", key)
        self._say("auth", "register", "--auth-id", key, "--user", user)

    def delete_node(self, number: int) -> None:
        self._say("nodes", "delete", "--identifier", str(number), "--force")

    def _say(self, *words: str) -> str:
        command = [self.program, "-c", str(self.home / "config.yaml"), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
