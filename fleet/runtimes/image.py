"""Builds the relay image without an engine: a static derper, the warden that fences it, a CA bundle, nothing else.

There is no official image, and registries are out of reach for many hosts, so the portal keeps a
docker-archive of its own and loads it through the engine's API.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import certifi

from .base import Rejected

DERPER_VERSION = "v1.102.3"
DERPER_MODULE = "tailscale.com/cmd/derper"
WARDEN_VERSION = "w2"
"""Part of the image's name: hosts keep an image as long as its name stays, so a changed warden needs another one."""
WARDEN_SOURCE = Path(__file__).with_name("warden")
REPOSITORY = "derp-portal/derper"
RELAY_UID = 65532
CA_PATH = "etc/ssl/certs/ca-certificates.crt"
BUILD_SECONDS = 900

_ELF_MACHINES = {62: "amd64", 183: "arm64"}
_PT_INTERP = 3


def image_name(version: str = DERPER_VERSION) -> str:
    """The reference under which hosts know the image, such as `derp-portal/derper:1.102.3-w2`."""
    return f"{REPOSITORY}:{version.removeprefix('v')}-{WARDEN_VERSION}"


def archive_path(image: str, images_dir: Path) -> Path:
    """Where the archive of `image` is kept. A pure function: the file may not exist."""
    return images_dir / (re.sub(r"[^a-zA-Z0-9_.-]+", "-", image) + ".tar")


def stored_archive(image: str, images_dir: Path) -> Path:
    """The archive to load on a host that lacks `image`; `Rejected("image_missing")` if it was never built."""
    path = archive_path(image, images_dir)
    if not path.is_file():
        raise Rejected("image_missing", f"{image} was not built yet")
    return path


def relay_image(version: str, images_dir: Path, *, derper: Path | None = None, rebuild: bool = False) -> Path:
    """Build and keep the archive of the relay image, or give the one kept. Needs Go; `derper` saves building that too.

    Raises `Rejected` with `image_build_failed` or `disk_full`; a half-written archive is never left in place.
    """
    _check_is_version(version)
    path = archive_path(image_name(version), images_dir)
    if path.is_file() and not rebuild:
        return path
    images_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="derper-", dir=images_dir) as workdir:
        derper = derper or build_derper(version, Path(workdir))
        _check_told_version(derper, version)
        try:
            relay = derper.read_bytes()
            warden = build_warden(architecture_of(relay, "derper"), Path(workdir)).read_bytes()
            content = pack_image(image_name(version), relay, warden, Path(certifi.where()).read_bytes())
            draft = Path(workdir) / "image.tar"
            draft.write_bytes(content)
            os.replace(draft, path)
        except OSError as error:
            raise Rejected("disk_full" if error.errno == errno.ENOSPC else "image_build_failed", str(error)) from error
    return path


def build_derper(version: str, workdir: Path) -> Path:
    """Compile derper of that version with the Go tool chain; returns the static binary inside `workdir`."""
    _check_is_version(version)
    bin_dir = workdir / "bin"
    bin_dir.mkdir(parents=True, exist_ok=True)
    arguments = ["install", "-trimpath", "-ldflags=-s -w", f"{DERPER_MODULE}@{version}"]
    _go(arguments, cwd=workdir, GOBIN=str(bin_dir.resolve()))
    return bin_dir / "derper"


def build_warden(architecture: str, workdir: Path) -> Path:
    """Compile our own entry point for that architecture, from the source beside this module and without a network.

    Returns the static binary inside `workdir`. The same tool chain gives the same bytes wherever it runs.
    """
    target = workdir.resolve() / "warden"
    flags = f"-ldflags=-s -w -buildid= -X main.version={WARDEN_VERSION}"
    # Settings of whoever builds must not leak in: they would change the bytes, or ask a proxy for a newer tool chain.
    fixed = {"GOOS": "linux", "GOARCH": architecture, "GOAMD64": "v1", "GOPROXY": "off", "GOTOOLCHAIN": "local"}
    fixed |= {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "GOEXPERIMENT": ""}
    _go(["build", "-trimpath", "-buildvcs=false", flags, "-o", str(target), "."], cwd=WARDEN_SOURCE, **fixed)
    return target


def _go(arguments: list[str], *, cwd: Path, **env: str) -> None:
    """Run the Go tool chain for a static program; raises `Rejected` with its own words when it fails."""
    go = shutil.which("go")
    if go is None:
        raise Rejected(
            "image_build_failed",
            "the Go tool chain is not on PATH: install Go 1.21 or newer (https://go.dev/dl/, or your system's golang)",
        )
    try:
        done = subprocess.run(
            [go, *arguments],
            cwd=cwd,
            env={**os.environ, "CGO_ENABLED": "0", **env},
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise Rejected("image_build_failed", f"go took more than {BUILD_SECONDS} seconds") from error
    if done.returncode != 0:
        code = "disk_full" if "no space left on device" in done.stderr else "image_build_failed"
        raise Rejected(code, done.stderr.strip()[-2000:] or f"go exited with {done.returncode}")


def pack_image(name: str, derper: bytes, warden: bytes, ca_bundle: bytes) -> bytes:
    """A docker-archive of a `FROM scratch` image. The same inputs give the same bytes, so the same image id.

    The warden comes first and runs derper with the container's arguments; ADR 0008 says why.
    """
    architecture = architecture_of(derper, "derper")
    if architecture_of(warden, "warden") != architecture:
        raise Rejected("image_build_failed", f"warden is not for {architecture}, as derper is")
    layer = _tar(
        _Member("warden", warden, 0o755),
        _Member("derper", derper, 0o755),
        _Member("etc", None, 0o755),
        _Member("etc/ssl", None, 0o755),
        _Member("etc/ssl/certs", None, 0o755),
        _Member(CA_PATH, ca_bundle, 0o644),
        # A new volume copies owner and mode from here: the relay may read its files, not add to them.
        _Member("relay", None, 0o755),
        # But for who was let in, which the warden writes down.
        _Member("relay/door", None, 0o700, owner=RELAY_UID),
    )
    layer_digest = hashlib.sha256(layer).hexdigest()
    config = _json(
        {
            "architecture": architecture,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {
                "User": f"{RELAY_UID}:{RELAY_UID}",
                "Entrypoint": ["/warden", "run", "/derper"],
                "Env": ["PATH=/", f"SSL_CERT_FILE=/{CA_PATH}"],
                "StopSignal": "SIGTERM",
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "derp-portal"}],
        }
    )
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{layer_digest}/layer.tar"
    manifest = _json([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}])
    return _tar(
        _Member(config_name, config, 0o644),
        _Member(layer_digest, None, 0o755),
        _Member(layer_name, layer, 0o644),
        _Member("manifest.json", manifest, 0o644),
    )


class _Member(tarfile.TarInfo):
    """One entry that carries no trace of who built it, or when. `content=None` is a folder."""

    def __init__(self, name: str, content: bytes | None, mode: int, owner: int = 0) -> None:
        super().__init__(name)
        self.content = content or b""
        self.size = len(self.content)
        self.mode = mode
        self.uid = self.gid = owner
        self.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE


def _tar(*members: _Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(member.content))
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def architecture_of(binary: bytes, name: str) -> str:
    """The architecture in Go's and Docker's words, read from the program; refuses what a scratch image cannot run."""
    if len(binary) < 64 or binary[:6] != b"\x7fELF\x02\x01":
        raise Rejected("image_build_failed", f"{name} is not a 64-bit Linux program")
    machine = struct.unpack_from("<H", binary, 18)[0]
    if machine not in _ELF_MACHINES:
        raise Rejected("image_build_failed", f"{name} is for an unsupported processor (ELF machine {machine})")
    table, (entry_size, entries) = struct.unpack_from("<Q", binary, 32)[0], struct.unpack_from("<HH", binary, 54)
    headers = [table + index * entry_size for index in range(entries)]
    if any(offset + 4 > len(binary) for offset in headers):
        raise Rejected("image_build_failed", f"{name} is cut short")
    if any(struct.unpack_from("<I", binary, offset)[0] == _PT_INTERP for offset in headers):
        raise Rejected("image_build_failed", f"{name} is linked dynamically: build it with CGO_ENABLED=0")
    return _ELF_MACHINES[machine]


def _check_is_version(version: str) -> None:
    if not re.fullmatch(r"v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?", version):
        raise Rejected("image_build_failed", f"{version!r} is not a version such as {DERPER_VERSION}")


def _check_told_version(binary: Path, version: str) -> None:
    """An image must not be called 1.102.3 and hold something else."""
    try:
        done = subprocess.run([binary, "-version"], capture_output=True, check=False, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Rejected("image_build_failed", f"{binary} does not run: {error}") from error
    told = done.stdout.strip()
    if told.split("-")[0] != version.removeprefix("v"):
        raise Rejected("image_build_failed", f"{binary} is version {told or 'unknown'}, not {version}")
