"""`manage.py build_relay_image`: the real derper as an image archive, ready to be loaded onto every host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet.runtimes.base import RuntimeFailure
from fleet.runtimes.image import DERPER_VERSION, relay_image


class Command(BaseCommand):
    help = "Build the relay image (needs Go, or DERPER_BIN naming a derper of that version) and keep its archive."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--derper-version", default=DERPER_VERSION, help="the derper to build, e.g. %(default)s")
        parser.add_argument("--rebuild", action="store_true", help="build again even if the archive exists")

    def handle(self, *args: Any, **options: Any) -> None:
        binary = os.environ.get("DERPER_BIN")
        try:
            archive = relay_image(
                options["derper_version"],
                settings.IMAGES_DIR,
                derper=Path(binary) if binary else None,
                rebuild=options["rebuild"],
            )
        except RuntimeFailure as failure:
            raise CommandError(str(failure)) from failure
        self.stdout.write(f"image archive: {archive} ({archive.stat().st_size // 1_000_000} MB)")
