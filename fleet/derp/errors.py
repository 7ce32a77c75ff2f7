"""What can go wrong on the way to a relay. `code` is stable; people read a translation made elsewhere."""

from __future__ import annotations


class RelayFailure(Exception):
    """The relay did not do what a healthy relay does."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class NetworkFailure(RelayFailure):
    """Nothing usable answered. Codes: `refused`, `timeout`, `unreachable`, `reset`, `closed`."""


class NotOurRelay(RelayFailure):
    """Something answered, but not the relay that was meant.

    Codes: `tls_failed`, `pin_mismatch`, `cert_expired`, `cert_not_yet_valid`, `name_mismatch`, `not_derp`.
    """


class Denied(RelayFailure):
    """The relay is there and its door refused this node key. Code: `denied`."""

    def __init__(self) -> None:
        super().__init__("denied")
