"""`python -m bench`: every measurement, one line each, as a ratio against bare work done in the same run."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests import parts, servers


def main() -> int:
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
        }
        stack.enter_context(servers.valkey(folder / "valkey", listen))
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)

        from bench import activation, failover, generation, idle_pass, large_fleet
        from tests.fleet.engines import DockerEngine, Relayd

        generation.measure()
        for name in ("relayd", "docker"):
            (folder / name).mkdir()
        relayd = Relayd(folder / "relayd")
        relayd.start()
        stack.callback(relayd.stop)
        activation.measure("process", relayd)
        if parts.has("docker"):
            from fleet.runtimes.image import DERPER_VERSION, relay_image

            binary = os.environ.get("DERPER_BIN")
            images = Path(os.environ["DATA_DIR"]) / "images"
            relay_image(DERPER_VERSION, images, derper=Path(binary) if binary else None)
            engine = DockerEngine(folder / "docker", images)
            stack.callback(engine.destroy)
            engine.start()
            activation.measure("docker", engine)
            idle_pass.measure(engine)
            failover.measure(images)
        else:
            print("docker: not measured, the engine is not here")
        large_fleet.measure()
    return 0


if __name__ == "__main__":
    sys.exit(main())
