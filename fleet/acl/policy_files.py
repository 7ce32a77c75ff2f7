"""Reading and writing a tailnet's policy file by Tailscale's API."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from derp_portal.lib.outbound import Answer, OutboundFailure, fetch
from fleet.models import ControlServer

from .control_servers import TAILSCALE, check, tailscale_token

HUJSON = "application/hujson"


@dataclass(frozen=True, slots=True)
class PolicyFile:
    """The text as its owner wrote it, and the tag of this very version."""

    text: str
    etag: str


def read_policy(server: ControlServer) -> PolicyFile:
    """The policy file as it is now. Raises OutboundFailure."""
    answer = fetch("GET", _address(server), headers=_headers(server))
    check(answer)
    return _file(answer)


def write_policy(server: ControlServer, text: str, *, etag: str) -> PolicyFile:
    """Replace that version of it. Raises OutboundFailure, `conflict` when it is another one by now.

    `refused_policy` when the control server will not have it.
    """
    headers = {**_headers(server), "Content-Type": HUJSON, "If-Match": etag}
    answer = fetch("POST", _address(server), headers=headers, content=text.encode())
    if answer.status == 412:
        raise OutboundFailure("conflict")
    if answer.status == 400:
        raise OutboundFailure("refused_policy", answer.body[:500].decode(errors="replace"))
    check(answer)
    return _file(answer)


def _address(server: ControlServer) -> str:
    return f"{TAILSCALE}/api/v2/tailnet/{quote(server.tailnet or '-', safe='')}/acl"


def _headers(server: ControlServer) -> dict[str, str]:
    return {"Authorization": f"Bearer {tailscale_token(server)}", "Accept": HUJSON}


def _file(answer: Answer) -> PolicyFile:
    etag = answer.headers.get("etag", "")
    if not etag:
        # Without it a change that somebody else makes meanwhile would be lost.
        raise OutboundFailure("bad_answer")
    try:
        return PolicyFile(answer.body.decode(), etag)
    except UnicodeDecodeError as error:
        raise OutboundFailure("bad_policy_file") from error
