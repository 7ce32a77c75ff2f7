"""`python -m bench [name …]`: measurements, one line each, as ratios against bare work done in the same run.

Names are those of the modules here (`metering`, `large_fleet`, …); without one, everything is measured.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType

from tests import parts, servers


def main(names: Collection[str]) -> int:
    """Lay out a portal of its own in a temporary folder, measure, take everything down again."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        run, listen = folder / "run", folder / "valkey.sock"
        run.mkdir()
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "derp_portal.settings",
            "DATA_DIR": str(folder / "data"),
            "XDG_RUNTIME_DIR": str(run),
            "REDIS_URL": f"unix://{listen}",
            "LOG_LEVEL": "ERROR",
            "TEST_GATEWAY": "1",
        }
        stack.enter_context(servers.valkey(folder / "valkey", listen))
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

        from bench import (
            activation,
            admission,
            callbacks,
            failover,
            finance,
            generation,
            idle_pass,
            large_fleet,
            metering,
            month_close,
        )
        from tests.fleet.engines import DockerEngine, Relayd

        def is_wanted(*modules: ModuleType) -> bool:
            return not names or any(module.__name__.removeprefix("bench.") in names for module in modules)

        _measure(filter(is_wanted, (generation, metering, admission, callbacks)))
        for name in ("relayd", "docker"):
            (folder / name).mkdir()
        if is_wanted(activation):
            relayd = Relayd(folder / "relayd")
            relayd.start()
            stack.callback(relayd.stop)
            activation.measure("process", relayd)
        if not parts.has("docker"):
            print("docker: not measured, the engine is not here")
        elif is_wanted(activation, idle_pass, failover):
            from fleet.runtimes.image import DERPER_VERSION, relay_image

            binary = os.environ.get("DERPER_BIN")
            images = Path(os.environ["DATA_DIR"]) / "images"
            relay_image(DERPER_VERSION, images, derper=Path(binary) if binary else None)
            engine = DockerEngine(folder / "docker", images)
            stack.callback(engine.destroy)
            engine.start()
            if is_wanted(activation):
                activation.measure("docker", engine)
            if is_wanted(idle_pass):
                idle_pass.measure(engine)
            if is_wanted(failover):
                failover.measure(images)
        # The last ones leave millions of rows behind, which nothing else should wade through.
        _measure(filter(is_wanted, (large_fleet, finance, month_close)))
    return 0


def _measure(modules: Iterable[ModuleType]) -> None:
    for module in modules:
        module.measure()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
