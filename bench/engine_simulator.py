"""Docker engines without containers: many in one process, each with a socket of its own, for measuring the portal.

They speak the part of the engine's HTTP API that `fleet.runtimes.docker` uses, keep their state in memory and answer
as engine 20.10 does, mistakes included. Programs are never run: a started container runs until it is stopped, and one
that somebody waits for ends well at once. Files that are put into containers are taken and forgotten.

    python -m bench.engine_simulator --sockets DIR --count 50
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

API_VERSION = "1.41"
ENGINE_VERSION = "20.10.24"
EVERY_ADDRESS = "0.0.0.0"
ROOT = Path(__file__).resolve().parents[1]

Answer: TypeAlias = tuple[HTTPStatus, bytes]


class Refusal(Exception):
    """The engine says no, in its own words."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            told = json.loads(self.body or b"{}")
        except ValueError as error:
            raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from error
        if not isinstance(told, dict):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the body is not an object")
        return told

    @property
    def labels(self) -> list[str]:
        """The label filter: what must be there, as `key` or `key=value`."""
        filters = json.loads(self.query.get("filters", "{}"))
        if unknown := sorted(filters.keys() - {"label"}):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"Invalid filter '{unknown[0]}'")
        return list(filters.get("label", ()))


class Port(NamedTuple):
    address: str
    number: int
    protocol: str


@dataclass
class Container:
    id: str
    name: str
    asked: dict[str, Any]
    created: datetime
    status: str = "created"
    started: datetime | None = None

    @property
    def labels(self) -> dict[str, str]:
        return self.asked.get("Labels") or {}

    @property
    def is_running(self) -> bool:
        return self.status == "running"

    @property
    def host_config(self) -> dict[str, Any]:
        return self.asked.setdefault("HostConfig", {})

    @functools.cached_property
    def volumes(self) -> set[str]:
        return {bind.split(":")[0] for bind in self.host_config.get("Binds") or ()}

    @functools.cached_property
    def ports(self) -> set[Port]:
        """What it takes on the host while it runs."""
        bindings = self.host_config.get("PortBindings") or {}
        return {
            Port(where.get("HostIp") or EVERY_ADDRESS, int(where["HostPort"]), inner.partition("/")[2])
            for inner, wheres in bindings.items()
            for where in wheres or ()
        }

    def row(self) -> dict[str, Any]:
        """As in a listing, and as long as the real one."""
        return {
            "Id": self.id,
            "Names": [f"/{self.name}"],
            "Image": self.asked.get("Image", ""),
            "ImageID": f"sha256:{hashlib.sha256(self.asked.get('Image', '').encode()).hexdigest()}",
            "Command": " ".join(self.asked.get("Cmd") or ()),
            "Created": int(self.created.timestamp()),
            "Ports": [
                {"IP": port.address, "PrivatePort": port.number, "PublicPort": port.number, "Type": port.protocol}
                for port in sorted(self.ports)
                if self.is_running
            ],
            "Labels": self.labels,
            "State": self.status,
            "Status": {"running": "Up 5 minutes", "created": "Created"}.get(self.status, "Exited (0) 5 minutes ago"),
            "HostConfig": {"NetworkMode": "default"},
            "NetworkSettings": {
                "Networks": {"bridge": {"NetworkID": "", "IPAddress": "172.17.0.2", "IPPrefixLen": 16}}
            },
            "Mounts": [{"Type": "volume", "Name": name, "Driver": "local", "RW": True} for name in self.volumes],
        }

    def details(self) -> dict[str, Any]:
        config = {key: value for key, value in self.asked.items() if key != "HostConfig"}
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "Created": _time(self.created),
            "Config": {"Tty": False, **config},
            "HostConfig": self.host_config,
            "State": {
                "Status": self.status,
                "Running": self.is_running,
                "Pid": int(self.is_running),
                "ExitCode": 0,
                "StartedAt": _time(self.started) if self.started else "0001-01-01T00:00:00Z",
            },
        }


@dataclass
class Engine:
    """One host and what is on it."""

    name: str
    images: set[str] = field(default_factory=set)
    containers: dict[str, Container] = field(default_factory=dict)
    volumes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _listings: dict[str, bytes] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def answer(self, request: Request) -> Answer:
        path = re.sub(r"^/v\d+\.\d+(?=/)", "", request.path)
        for method, pattern, handler in _ROUTES:
            if method == request.method and (match := pattern.fullmatch(path)):
                try:
                    return handler(self, request, *map(unquote, match.groups()))
                except Refusal as refusal:
                    return _answer({"message": refusal.message}, refusal.status)
        return _answer({"message": "page not found"}, HTTPStatus.NOT_FOUND)

    def ping(self, request: Request) -> Answer:
        return HTTPStatus.OK, b"OK"

    def version(self, request: Request) -> Answer:
        return _answer({"Version": ENGINE_VERSION, "ApiVersion": API_VERSION, "MinAPIVersion": "1.12", "Os": "linux"})

    def info(self, request: Request) -> Answer:
        running = sum(container.is_running for container in self.containers.values())
        told = {
            "ID": hashlib.sha256(self.name.encode()).hexdigest()[:48].upper(),
            "Name": self.name,
            "ServerVersion": ENGINE_VERSION,
            "SystemTime": _time(datetime.now(UTC)),
            "NCPU": 4,
            "MemTotal": 8 * 2**30,
            "OperatingSystem": "Simulated",
            "OSType": "linux",
            "KernelVersion": "6.1.0",
            "Architecture": "x86_64",
            "Driver": "overlay2",
            "LiveRestoreEnabled": True,
            "Containers": len(self.containers),
            "ContainersRunning": running,
            "Images": len(self.images),
        }
        return _answer(told)

    def image(self, request: Request, name: str) -> Answer:
        self._need_image(name)
        return _answer({"Id": f"sha256:{hashlib.sha256(name.encode()).hexdigest()}", "RepoTags": [name]})

    def load_image(self, request: Request) -> Answer:
        try:
            with tarfile.open(fileobj=io.BytesIO(request.body)) as archive:
                manifest = archive.extractfile("manifest.json")
                names = [name for one in json.load(manifest or io.BytesIO()) for name in one["RepoTags"]]
        except (tarfile.TarError, ValueError, KeyError, TypeError) as error:
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"Error processing tar file: {error}") from error
        self.images.update(names)
        return _answer({"stream": f"Loaded image: {', '.join(names)}\n"})

    def list_containers(self, request: Request) -> Answer:
        key = f"{request.query.get('all')} {request.query.get('filters')}"
        if key not in self._listings:
            is_all, labels = request.query.get("all", "0") in ("1", "true", "True"), request.labels
            rows = [
                container.row()
                for container in reversed(self.containers.values())
                if (is_all or container.is_running) and _has_labels(container.labels, labels)
            ]
            self._listings[key] = json.dumps(rows).encode()
        return HTTPStatus.OK, self._listings[key]

    def create_container(self, request: Request) -> Answer:
        asked, name = request.json(), request.query.get("name", "")
        self._need_image(str(asked.get("Image", "")))
        for other in self.containers.values():
            if other.name == name:
                raise Refusal(
                    HTTPStatus.CONFLICT,
                    f'Conflict. The container name "/{name}" is already in use by container "{other.id}". '
                    "You have to remove (or rename) that container to be able to reuse that name.",
                )
        identity = hashlib.sha256(f"{self.name} {next(self._numbers)}".encode()).hexdigest()
        container = Container(identity, name or f"nameless_{identity[:8]}", asked, datetime.now(UTC))
        self.containers[identity] = container
        for volume in container.volumes:
            self._volume(volume, {})
        self._listings.clear()
        return _answer({"Id": identity, "Warnings": []}, HTTPStatus.CREATED)

    def inspect_container(self, request: Request, ref: str) -> Answer:
        return _answer(self._find(ref).details())

    def start_container(self, request: Request, ref: str) -> Answer:
        container = self._find(ref)
        if container.is_running:
            return HTTPStatus.NOT_MODIFIED, b""
        for other in self.containers.values():
            if other.is_running and (port := _shared_port(container.ports, other.ports)):
                message = f"driver failed programming external connectivity on endpoint {container.name}: "
                message += f"Bind for {port} failed: port is already allocated"
                raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, message)
        container.started = datetime.now(UTC)
        return self._becomes(container, "running")

    def stop_container(self, request: Request, ref: str) -> Answer:
        container = self._find(ref)
        if not container.is_running:
            return HTTPStatus.NOT_MODIFIED, b""
        return self._becomes(container, "exited")

    def kill_container(self, request: Request, ref: str) -> Answer:
        container = self._find(ref)
        if not container.is_running:
            message = f"Cannot kill container: {ref}: Container {container.id} is not running"
            raise Refusal(HTTPStatus.CONFLICT, message)
        if request.query.get("signal", "SIGKILL") in ("SIGKILL", "KILL", "9", "SIGTERM", "TERM", "15"):
            return self._becomes(container, "exited")
        return HTTPStatus.NO_CONTENT, b""

    def update_container(self, request: Request, ref: str) -> Answer:
        self._find(ref).host_config.update(request.json())
        return _answer({"Warnings": []})

    def wait_for_container(self, request: Request, ref: str) -> Answer:
        self._becomes(self._find(ref), "exited")
        return _answer({"StatusCode": 0})

    def container_logs(self, request: Request, ref: str) -> Answer:
        self._find(ref)
        return HTTPStatus.OK, b""

    def put_archive(self, request: Request, ref: str) -> Answer:
        self._find(ref)
        return HTTPStatus.OK, b""

    def remove_container(self, request: Request, ref: str) -> Answer:
        container = self._find(ref)
        if container.is_running and request.query.get("force", "0") not in ("1", "true", "True"):
            message = f"You cannot remove a running container {container.id}. Stop the container before attempting"
            raise Refusal(HTTPStatus.CONFLICT, f"{message} removal or force remove")
        del self.containers[container.id]
        self._listings.clear()
        return HTTPStatus.NO_CONTENT, b""

    def create_volume(self, request: Request) -> Answer:
        asked = request.json()
        return _answer(self._volume(str(asked["Name"]), asked.get("Labels") or {}), HTTPStatus.CREATED)

    def list_volumes(self, request: Request) -> Answer:
        labels = request.labels
        found = [volume for volume in self.volumes.values() if _has_labels(volume["Labels"], labels)]
        return _answer({"Volumes": found, "Warnings": None})

    def inspect_volume(self, request: Request, name: str) -> Answer:
        self._need_volume(name)
        return _answer(self.volumes[name])

    def remove_volume(self, request: Request, name: str) -> Answer:
        self._need_volume(name)
        users = [container.id for container in self.containers.values() if name in container.volumes]
        if users:
            raise Refusal(HTTPStatus.CONFLICT, f"remove {name}: volume is in use - [{', '.join(users)}]")
        del self.volumes[name]
        return HTTPStatus.NO_CONTENT, b""

    def _becomes(self, container: Container, status: str) -> Answer:
        container.status = status
        self._listings.clear()
        return HTTPStatus.NO_CONTENT, b""

    def _volume(self, name: str, labels: dict[str, str]) -> dict[str, Any]:
        """The volume of that name, as it was first asked for."""
        new = {"Name": name, "Driver": "local", "Mountpoint": f"/var/lib/docker/volumes/{name}/_data", "Scope": "local"}
        return self.volumes.setdefault(name, {**new, "Labels": labels, "CreatedAt": _time(datetime.now(UTC))})

    def _find(self, ref: str) -> Container:
        if ref in self.containers:
            return self.containers[ref]
        for container in self.containers.values():
            if container.name == ref:
                return container
        raise Refusal(HTTPStatus.NOT_FOUND, f"No such container: {ref}")

    def _need_image(self, name: str) -> None:
        if name not in self.images:
            raise Refusal(HTTPStatus.NOT_FOUND, f"No such image: {name}")

    def _need_volume(self, name: str) -> None:
        if name not in self.volumes:
            raise Refusal(HTTPStatus.NOT_FOUND, f"get {name}: no such volume")


_Handler: TypeAlias = Callable[..., Answer]
_ROUTES: list[tuple[str, re.Pattern[str], _Handler]] = [
    (method, re.compile(path.replace("*", "([^/]+)").replace("@", "(.+)")), handler)
    for method, path, handler in (
        ("GET", "/containers/json", Engine.list_containers),
        ("GET", "/_ping", Engine.ping),
        ("GET", "/version", Engine.version),
        ("GET", "/info", Engine.info),
        ("GET", "/images/@/json", Engine.image),
        ("POST", "/images/load", Engine.load_image),
        ("POST", "/containers/create", Engine.create_container),
        ("GET", "/containers/*/json", Engine.inspect_container),
        ("POST", "/containers/*/start", Engine.start_container),
        ("POST", "/containers/*/stop", Engine.stop_container),
        ("POST", "/containers/*/kill", Engine.kill_container),
        ("POST", "/containers/*/update", Engine.update_container),
        ("POST", "/containers/*/wait", Engine.wait_for_container),
        ("GET", "/containers/*/logs", Engine.container_logs),
        ("PUT", "/containers/*/archive", Engine.put_archive),
        ("DELETE", "/containers/*", Engine.remove_container),
        ("POST", "/volumes/create", Engine.create_volume),
        ("GET", "/volumes", Engine.list_volumes),
        ("GET", "/volumes/*", Engine.inspect_volume),
        ("DELETE", "/volumes/*", Engine.remove_volume),
    )
]


def _answer(told: Any, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    return status, json.dumps(told).encode()


def _shared_port(some: set[Port], others: set[Port]) -> str:
    """`address:number` of a port that both want, "" when there is none."""
    for one, other in itertools.product(some, others):
        if one[1:] == other[1:] and (one.address == other.address or EVERY_ADDRESS in (one.address, other.address)):
            return f"{one.address}:{one.number}"
    return ""


def _has_labels(labels: dict[str, str], wanted: Iterable[str]) -> bool:
    pairs = (one.partition("=") for one in wanted)
    return all(key in labels and (not equals or labels[key] == value) for key, equals, value in pairs)


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


class Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive, as much of it as the Docker SDK uses."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            first, *lines = self._received[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            if "transfer-encoding" in headers:
                self._send("", _answer({"message": "a length is required"}, HTTPStatus.LENGTH_REQUIRED))
                self._transport.close()
                return
            total = end + 4 + int(headers.get("content-length", 0))
            if len(self._received) < total:
                return
            method, target, _ = first.split(" ")
            parts = urlsplit(target)
            request = Request(method, parts.path, dict(parse_qsl(parts.query)), bytes(self._received[end + 4 : total]))
            del self._received[:total]
            self._send(method, self._engine.answer(request))
            if headers.get("connection", "").lower() == "close":
                self._transport.close()
                return

    def _send(self, method: str, answer: Answer) -> None:
        status, body = answer
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\nApi-Version: {API_VERSION}\r\n"
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._transport.write(f"{head}\r\n".encode() + (b"" if method == "HEAD" else body))


async def serve(folder: Path, count: int, *, images: Iterable[str] = (), until_eof: bool = False) -> None:
    """Print the endpoints of that many engines, one a line, and serve them until SIGTERM or the end of the input."""
    loop, ending = asyncio.get_running_loop(), asyncio.Event()
    for ask in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(ask, ending.set)
    if until_eof:
        loop.add_reader(sys.stdin, lambda: None if os.read(sys.stdin.fileno(), 65536) else ending.set())
    endpoints, servers = [], []
    for number in range(count):
        connection = functools.partial(Connection, Engine(f"simulated-{number}", set(images)))
        servers.append(await loop.create_unix_server(connection, folder / f"{number}.sock"))
        endpoints.append(f"unix://{folder}/{number}.sock")
    print("\n".join(endpoints), flush=True)
    await ending.wait()
    for server in servers:
        server.close()


@contextmanager
def simulated_engines(count: int, *, images: Iterable[str] = ()) -> Iterator[list[str]]:
    """Endpoints of that many empty engines with these images, in a process of their own that ends with the block."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="sim-", dir="/tmp"))
        command = [sys.executable, "-m", "bench.engine_simulator", "--sockets", folder, "--count", str(count)]
        command += ["--until-eof", *(f"--image={image}" for image in images)]
        pipe = subprocess.PIPE
        process = stack.enter_context(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True))
        stack.callback(process.terminate)
        assert process.stdout is not None
        endpoints = [line.strip() for line in itertools.islice(process.stdout, count)]
        if len(endpoints) < count:
            raise RuntimeError(f"the simulator ended with {process.wait()}")
        yield endpoints


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_simulator", description="Simulated Docker engines.")
    parser.add_argument("--sockets", type=Path, required=True, help="a folder for the sockets, 0.sock and so on")
    parser.add_argument("--count", type=int, default=1, help="how many engines (default: 1)")
    parser.add_argument("--image", action="append", default=[], help="an image that every engine has; repeatable")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    options = parser.parse_args()
    asyncio.run(serve(options.sockets, options.count, images=options.image, until_eof=options.until_eof))


if __name__ == "__main__":
    main()
