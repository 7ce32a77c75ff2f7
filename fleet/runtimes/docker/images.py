"""How an image comes onto a host: from the portal's stored archive, or from the registry its name says."""

from __future__ import annotations

import re
from pathlib import Path

from docker.errors import APIError, ImageNotFound

from fleet.runtimes.base import Rejected

from .client import EngineClient
from .failures import refusal, words_of

TRANSFER_TIMEOUTS = (30, 300)
"""A slow uplink may stand still for a while, and the engine answers only after unpacking."""

RegistryAuth = tuple[str, str]
"""User and password."""

_DENIED = re.compile(r"unauthorized|denied|authentication required|no basic auth|forbidden", re.IGNORECASE)
_ABSENT = re.compile(r"manifest unknown|no matching manifest|name unknown|not found|no such image", re.IGNORECASE)


def has_image(api: EngineClient, image: str) -> bool:
    try:
        api.inspect_image(image)
    except ImageNotFound:
        return False
    return True


def load(api: EngineClient, image: str, archive: Path) -> None:
    """Send the archive. `Rejected` with `image_missing`, `disk_full` or the engine's own words."""
    try:
        file = archive.open("rb")
    except OSError as error:
        raise Rejected("image_missing", f"{image}: {error}") from error
    with file, api.patience(TRANSFER_TIMEOUTS):
        for line in api.load_image(file) or ():
            if "error" in line:
                raise refusal(str(line["error"]))
    if not has_image(api, image):
        raise Rejected("image_missing", f"the stored archive does not hold {image}")


def registry_of(image: str) -> str:
    """The registry that the reference names, as the engine reads it; "" when it names none."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def pull(api: EngineClient, image: str, login: RegistryAuth | None) -> None:
    """Let the engine fetch it. `Rejected` with `image_missing`, `registry_denied`, `disk_full` or `pull_failed`."""
    # An empty login keeps the SDK from using those of the user that runs the portal.
    auth = {"username": login[0], "password": login[1], "serveraddress": registry_of(image)} if login else {}
    with api.patience(TRANSFER_TIMEOUTS):
        try:
            for line in api.pull(image, stream=True, decode=True, auth_config=auth):
                if "error" in line:
                    raise _pull_failure(str(line["error"]))
        except APIError as error:
            raise _pull_failure(words_of(error)) from error
    if not has_image(api, image):
        raise Rejected("image_missing", image)


def _pull_failure(words: str) -> Rejected:
    if _DENIED.search(words):
        return Rejected("registry_denied", words)
    if _ABSENT.search(words):
        return Rejected("image_missing", words)
    said = refusal(words)
    return said if said.code == "disk_full" else Rejected("pull_failed", words)
