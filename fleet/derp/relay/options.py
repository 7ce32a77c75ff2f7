"""derper's command line, as far as the portal uses it."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})


class UsageError(ValueError):
    """The command line asks for something this relay does not understand or cannot do."""


@dataclass(frozen=True, slots=True)
class Options:
    """`host` "" means every address. Empty paths and URLs mean that the feature is off."""

    host: str
    port: int
    hostname: str
    cert_dir: Path
    key_path: Path
    stun_port: int | None
    verify_url: str = ""
    verify_fail_open: bool = True
    rate_config: Path | None = None
    accept_limit: float = math.inf
    accept_burst: float = math.inf
    debug_key_path: Path | None = None


def parse(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Options:
    """Read derper's flags, spelled as Go spells them (`-x v`, `-x=v`, `--x`; a boolean takes a value only after `=`).

    Raises UsageError.
    """
    values = _flags(arguments)
    for flag, only in (("certmode", "manual"), ("http-port", -1), ("home", "blank")):
        if values[flag] != only:
            raise UsageError(f"this relay works only with -{flag} {only}")
    for flag in ("a", "c", "certdir", "hostname"):
        if not values[flag]:
            raise UsageError(f"-{flag} is needed")
    host, port = _split_address(str(values["a"]))
    debug_key = (os.environ if environment is None else environment).get("TS_DEBUG_KEY_PATH", "")
    return Options(
        host=host,
        port=port,
        hostname=str(values["hostname"]),
        cert_dir=Path(str(values["certdir"])),
        key_path=Path(str(values["c"])),
        stun_port=int(values["stun-port"]) if values["stun"] else None,
        verify_url=str(values["verify-client-url"]),
        verify_fail_open=bool(values["verify-client-url-fail-open"]),
        rate_config=Path(str(values["rate-config"])) if values["rate-config"] else None,
        accept_limit=float(values["accept-connection-limit"]),
        accept_burst=float(values["accept-connection-burst"]),
        debug_key_path=Path(debug_key) if debug_key else None,
    )


def _flags(arguments: Sequence[str]) -> dict[str, str | int | float | bool]:
    values: dict[str, str | int | float | bool] = {name: default for name, (_, default) in _FLAGS.items()}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, separator, text = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-") or name not in _FLAGS:
            raise UsageError(f"unknown flag {argument!r}")
        read, default = _FLAGS[name]
        if not separator:
            if isinstance(default, bool):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise UsageError(f"-{name} needs a value")
        try:
            values[name] = read(text)
        except ValueError as error:
            raise UsageError(f"-{name} does not take {text!r}") from error
    return values


def _boolean(text: str) -> bool:
    folded = text.lower()
    if folded not in _TRUE | _FALSE:
        raise ValueError(text)
    return folded in _TRUE


def _split_address(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError("-a takes HOST:PORT or :PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


# The defaults are derper's own, also where this relay then refuses to start: a forgotten flag must not pass here and
# fail in production.
_FLAGS: dict[str, tuple[Callable[[str], str | int | float | bool], str | int | float | bool]] = {
    "a": (str, ":443"),
    "http-port": (int, 80),
    "stun": (_boolean, True),
    "stun-port": (int, 3478),
    "c": (str, ""),
    "certmode": (str, "letsencrypt"),
    "certdir": (str, ""),
    "hostname": (str, ""),
    "home": (str, ""),
    "verify-client-url": (str, ""),
    "verify-client-url-fail-open": (_boolean, True),
    "rate-config": (str, ""),
    "accept-connection-limit": (float, math.inf),
    "accept-connection-burst": (int, 2**63 - 1),
}
