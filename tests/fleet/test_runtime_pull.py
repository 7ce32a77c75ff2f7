"""Images from a registry: a tiny real one on loopback, where the engine needs no certificate."""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import secrets
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fleet.runtimes.base import Rejected
from fleet.runtimes.docker import DockerRuntime
from fleet.runtimes.docker.images import registry_of
from fleet.runtimes.image import DERPER_VERSION, image_name, stored_archive
from tests.fleet.engines import DockerEngine
from tests.ports import free_port

pytestmark = pytest.mark.xdist_group("docker")

LOGIN = ("robot", "secret")
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_PREFIX = "application/vnd.docker."


class Registry(ThreadingHTTPServer):
    """Serves one image as `relays/derper:1`; `login` is wanted of everybody once it is set."""

    login: tuple[str, str] | None = None

    def __init__(self, archive: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.blobs: dict[str, bytes] = {}
        with tarfile.open(archive) as tar:

            def read(name: str) -> bytes:
                file = tar.extractfile(name)
                assert file is not None
                return file.read()

            (listed,) = json.loads(read("manifest.json"))
            # An image of its own: what the engine has already, it does not ask for again.
            own = json.loads(read(listed["Config"])) | {"author": secrets.token_hex(8)}
            config = self._keep(json.dumps(own).encode(), "container.image.v1+json")
            layers = [
                self._keep(gzip.compress(read(name), 1), "image.rootfs.diff.tar.gzip") for name in listed["Layers"]
            ]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}
        self.manifest = json.dumps(manifest).encode()

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}/relays/derper:1"

    def _keep(self, content: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.blobs[digest] = content
        return {"mediaType": _PREFIX + kind, "size": len(content), "digest": digest}


class _Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        login = ":".join(self.server.login or ())
        if login and self.headers.get("Authorization") != f"Basic {base64.b64encode(login.encode()).decode()}":
            error = {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]}
            self._say(401, json.dumps(error).encode(), **{"WWW-Authenticate": 'Basic realm="tests"'})
        elif self.path == "/v2/":
            self._say(200, b"{}")
        elif self.path == "/v2/relays/derper/manifests/1" or self.path.endswith(_digest(self.server.manifest)):
            self._say(200, self.server.manifest, MANIFEST)
        elif (blob := self.server.blobs.get(self.path.rpartition("/")[2])) is not None:
            self._say(200, blob, "application/octet-stream")
        else:
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            self._say(404, json.dumps(error).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _say(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        described = {"Content-Type": kind, "Content-Length": str(len(body)), "Docker-Content-Digest": _digest(body)}
        for name, value in (described | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody reads it."""


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def registry(relay_images: Path) -> Iterator[Registry]:
    registry = Registry(stored_archive(image_name(DERPER_VERSION), relay_images))
    thread = threading.Thread(target=registry.serve_forever, daemon=True)
    thread.start()
    yield registry
    registry.shutdown()
    registry.server_close()
    thread.join()


@pytest.fixture
def runtime(docker_engine: DockerEngine, registry: Registry) -> Iterator[DockerRuntime]:
    """Its archives do not hold the registry's image, which is taken off the engine afterwards."""
    with contextlib.closing(docker_engine.runtime()) as runtime:
        yield runtime
    with contextlib.closing(docker_engine.api()) as api:
        for row in api.images(filters={"reference": registry.image}):
            api.remove_image(row["RepoTags"][0], force=True)


def is_there(engine: DockerEngine, image: str) -> bool:
    with contextlib.closing(engine.api()) as api:
        return bool(api.images(filters={"reference": image}))


def test_an_image_that_names_a_registry_is_pulled(
    docker_engine: DockerEngine, runtime: DockerRuntime, registry: Registry
) -> None:
    runtime.ensure_image(registry.image)
    assert is_there(docker_engine, registry.image)
    registry.shutdown()
    runtime.ensure_image(registry.image)  # Present: nobody is asked.


def test_a_stored_archive_goes_before_the_registry(docker_engine: DockerEngine, tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(b"not a tar")
    with (
        contextlib.closing(docker_engine.runtime(image_archive=lambda _: tmp_path / "broken.tar")) as runtime,
        pytest.raises(Rejected) as caught,
    ):
        runtime.ensure_image(f"127.0.0.1:{free_port()}/relays/derper:1")
    assert caught.value.code != "pull_failed"


def test_a_registry_that_wants_a_login_gets_the_one_given(
    docker_engine: DockerEngine, runtime: DockerRuntime, registry: Registry
) -> None:
    registry.login = LOGIN
    with pytest.raises(Rejected, match="registry_denied"):
        runtime.ensure_image(registry.image)
    with (
        contextlib.closing(docker_engine.runtime(registry_auth=("robot", "guess"))) as stranger,
        pytest.raises(Rejected, match="registry_denied"),
    ):
        stranger.ensure_image(registry.image)
    with contextlib.closing(docker_engine.runtime(registry_auth=LOGIN)) as known:
        known.ensure_image(registry.image)
    assert is_there(docker_engine, registry.image)


def test_an_image_that_the_registry_lacks_is_missing(runtime: DockerRuntime, registry: Registry) -> None:
    with pytest.raises(Rejected, match="image_missing"):
        runtime.ensure_image(registry.image.removesuffix(":1") + ":2")
    with pytest.raises(Rejected, match="image_missing"):
        runtime.ensure_image(registry.image.replace("derper", "other"))


def test_a_registry_that_is_away_is_no_fault_of_the_host(runtime: DockerRuntime) -> None:
    with pytest.raises(Rejected, match="pull_failed"):
        runtime.ensure_image(f"127.0.0.1:{free_port()}/relays/derper:1")


def test_a_blob_that_is_not_what_the_manifest_says_is_not_run(
    docker_engine: DockerEngine, runtime: DockerRuntime, registry: Registry
) -> None:
    registry.blobs = dict.fromkeys(registry.blobs, b"tampered")
    with pytest.raises(Rejected, match="pull_failed"):
        runtime.ensure_image(registry.image)
    assert not is_there(docker_engine, registry.image)


@pytest.mark.parametrize(
    ("image", "registry"),
    [
        ("derp-portal/derper:1.102.3", ""),
        ("derper", ""),
        ("derper:1", ""),
        ("localhost/derper", "localhost"),
        ("registry.example.com/derper:1", "registry.example.com"),
        ("host:5000/team/derper", "host:5000"),
    ],
)
def test_a_registry_is_what_the_engine_takes_for_one(image: str, registry: str) -> None:
    assert registry_of(image) == registry
