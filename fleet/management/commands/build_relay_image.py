"""`manage.py build_relay_image`: the real derper as an image archive, ready to be loaded onto every host."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fleet.runtimes.base import RuntimeFailure
from fleet.runtimes.image import DERPER_VERSION, image_name, relay_image


class Command(BaseCommand):
    help = "Build the relay image and keep its archive. Needs Go; DERPER_BIN may name a derper that is built already."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--derper-version", default=DERPER_VERSION, help="the derper to build, e.g. %(default)s")
        parser.add_argument("--rebuild", action="store_true", help="build again even if the archive exists")

    def handle(self, *args: Any, **options: Any) -> None:
        binary = os.environ.get("DERPER_BIN")
        version = options["derper_version"]
        try:
            archive = relay_image(
                version,
                settings.IMAGES_DIR,
                derper=Path(binary) if binary else None,
                rebuild=options["rebuild"],
            )
        except RuntimeFailure as failure:
            raise CommandError(str(failure)) from failure
        self.stdout.write(f"image: {image_name(version)}")
        self.stdout.write(f"image archive: {archive} ({archive.stat().st_size // 1_000_000} MB)")
