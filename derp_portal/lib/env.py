"""Where the portal keeps its files, and the secrets it makes for itself on a first start."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

UNIX_SOCKET_PATH_LIMIT = 107


def runtime_dir(data_dir: Path) -> Path:
    """A short private folder for Unix sockets, one for each `data_dir`.

    A socket's path may be 107 bytes at most, and a data folder can lie anywhere, so sockets live beside
    the system's temporary files under a name made from the data folder's. Raises RuntimeError when
    another user owns that folder.
    """
    digest = hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"derp-portal-{os.getuid()}-{digest}"
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise RuntimeError(f"{folder} must belong to this user alone (mode 0700)")
    return folder


def kept_secret(path: Path, make: Callable[[], str]) -> str:
    """The secret in `path`; made and written with mode 0600 when there is none yet.

    Safe when several processes start at once: the first to link the file wins and all read the same.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(make())
            os.link(temporary, path)
        except FileExistsError:
            # Another process was first: its secret is the one everybody uses.
            return path.read_text().strip()
        finally:
            os.unlink(temporary)
    return path.read_text().strip()
