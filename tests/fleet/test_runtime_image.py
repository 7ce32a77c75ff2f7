"""The relay image is packed without an engine, the same each time, and never with the wrong program in it."""

from __future__ import annotations

import io
import json
import struct
import sys
import tarfile
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from fleet.runtimes.base import Rejected
from fleet.runtimes.image import (
    DERPER_VERSION,
    architecture_of,
    build_derper,
    build_warden,
    image_name,
    pack_image,
    relay_image,
    stored_archive,
)
from tests.parts import need


def elf(*, machine: int = 62, segment: int = 1) -> bytes:
    """The smallest 64-bit Linux program header that says what we look at."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<H", header, 18, machine)
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, 1)
    return bytes(header) + struct.pack("<I", segment).ljust(56, b"\0")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_the_same_inputs_give_the_same_image() -> None:
    assert pack_image("a:1", elf(), elf(), b"ca") == pack_image("a:1", elf(), elf(), b"ca")
    assert pack_image("a:1", elf(), elf(), b"ca") != pack_image("a:1", elf(), elf(), b"other")
    assert pack_image("a:1", elf(), elf(), b"ca") != pack_image("a:1", elf(), elf() + b"\0", b"ca")


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_the_warden_is_built_for_derpers_processor_and_the_same_each_time(tmp_path: Path, architecture: str) -> None:
    need("go")
    first, second = (build_warden(architecture, folder).read_bytes() for folder in (tmp_path, tmp_path / "again"))
    assert architecture_of(first, "warden") == architecture
    assert first == second
    assert len(first) < 8_000_000


def test_a_warden_for_another_processor_is_refused() -> None:
    with pytest.raises(Rejected, match="image_build_failed: warden is not for amd64"):
        pack_image("a:1", elf(), elf(machine=183), b"")


@pytest.mark.parametrize(("machine", "architecture"), [(62, "amd64"), (183, "arm64")])
def test_the_image_says_for_which_processor_it_is(machine: int, architecture: str) -> None:
    binary = elf(machine=machine)
    with tarfile.open(fileobj=io.BytesIO(pack_image("a:1", binary, binary, b"ca"))) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())[0]
        config = json.load(tar.extractfile(manifest["Config"]) or io.BytesIO())
    assert manifest["RepoTags"] == ["a:1"]
    assert config["architecture"] == architecture
    assert config["config"]["User"] == "65532:65532"


@pytest.mark.parametrize(
    ("binary", "reason"),
    [
        (b"#!/bin/sh", "not a 64-bit Linux program"),
        (elf(machine=8), "unsupported processor"),
        (elf(segment=3), "CGO_ENABLED=0"),
        (elf()[:66], "cut short"),
    ],
    ids=["a script", "another processor", "a dynamic program", "half a program"],
)
def test_a_program_that_a_scratch_image_cannot_run_is_refused(binary: bytes, reason: str) -> None:
    with pytest.raises(Rejected, match=reason) as caught:
        pack_image("a:1", binary, elf(), b"")
    assert caught.value.code == "image_build_failed"


def test_a_derper_of_another_version_is_refused(tmp_path: Path) -> None:
    other = script(tmp_path / "derper", "echo 1.80.0-tabc")
    with pytest.raises(Rejected, match=r"is version 1\.80\.0-tabc, not v1\.102\.3"):
        relay_image("v1.102.3", tmp_path / "images", derper=other)
    with pytest.raises(Rejected, match="image_missing"):
        stored_archive(image_name("v1.102.3"), tmp_path / "images")


def test_without_go_the_operator_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Rejected, match=r"install Go 1\.21 or newer"):
        build_derper(DERPER_VERSION, tmp_path)
    derper = tmp_path / "named"
    derper.write_bytes(elf())
    monkeypatch.setattr("fleet.runtimes.image._check_told_version", lambda *_: None)
    with pytest.raises(Rejected, match=r"image_build_failed: .*install Go 1\.21 or newer"):
        relay_image(DERPER_VERSION, tmp_path / "images", derper=derper)
    assert list((tmp_path / "images").iterdir()) == []


def test_when_go_fails_its_own_words_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(tmp_path / "go", "echo 'dial tcp: connection refused' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Rejected, match="image_build_failed: dial tcp: connection refused"):
        build_derper(DERPER_VERSION, tmp_path)


@pytest.mark.parametrize("version", ["latest", "v1", "v1.2.3; rm", "--help"])
def test_only_a_pinned_version_is_built(tmp_path: Path, version: str) -> None:
    with pytest.raises(Rejected, match="is not a version"):
        build_derper(version, tmp_path)
    with pytest.raises(Rejected, match="is not a version"):
        relay_image(version, tmp_path, derper=Path(sys.executable))


def test_the_command_says_which_image_it_made(
    relay_images: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.IMAGES_DIR = relay_images
    call_command("build_relay_image", derper_version=DERPER_VERSION)
    assert f"image: {image_name(DERPER_VERSION)}\n" in capsys.readouterr().out
    with pytest.raises(CommandError, match="is not a version"):
        call_command("build_relay_image", derper_version="latest")


def test_a_kept_archive_is_not_built_again(relay_images: Path) -> None:
    kept = stored_archive(image_name(DERPER_VERSION), relay_images)
    assert relay_image(DERPER_VERSION, relay_images, derper=Path(sys.executable)) == kept


def test_the_image_is_named_after_both_programs_and_starts_the_warden(relay_images: Path) -> None:
    assert image_name("v1.102.3") == "derp-portal/derper:1.102.3-w2"
    with tarfile.open(stored_archive(image_name(DERPER_VERSION), relay_images)) as tar:
        manifest = json.load(tar.extractfile("manifest.json") or io.BytesIO())[0]
        config = json.load(tar.extractfile(manifest["Config"]) or io.BytesIO())
        with tarfile.open(fileobj=tar.extractfile(manifest["Layers"][0])) as layer:
            programs = {member.name for member in layer if member.isfile() and member.mode == 0o755}
    assert config["config"]["Entrypoint"] == ["/warden", "run", "/derper"]
    assert programs == {"warden", "derper"}
