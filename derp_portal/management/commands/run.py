"""`manage.py run`: the whole portal on this machine, in one readable stream, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from io import StringIO
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from derp_portal import programs
from derp_portal.supervisor import Program, StartFailure, Supervisor
from fleet.models import Server

RULE = "=" * 78


class Command(BaseCommand):
    help = (
        "Runs everything on this machine: broker, relay daemon, web server, worker and scheduler. "
        "Restarts what dies; Ctrl-C or SIGTERM ends all of it."
    )
    requires_system_checks = ()  # `migrate` runs them, and one round is enough.

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            # Kept until this process ends, which is what frees it.
            programs.lock_data_dir(settings.DATA_DIR)
            programs.check_port(settings.HOST, settings.PORT)
            asyncio.run(self._serve())
        except StartFailure as failure:
            raise CommandError(str(failure)) from None

    async def _serve(self) -> None:
        supervisor = Supervisor(directory=settings.BASE_DIR, say=self._say)
        serving = asyncio.create_task(self._bring_up(supervisor))
        is_stopping = False

        def stop() -> None:
            nonlocal is_stopping
            if is_stopping:
                supervisor.hurry()
            is_stopping = True
            serving.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            await serving
        except asyncio.CancelledError:
            self._say("supervisor", "stopping; once more to stop without waiting")
        finally:
            is_stopping = True
            await supervisor.stop()
        self._say("supervisor", "everything has stopped")

    async def _bring_up(self, supervisor: Supervisor) -> None:
        """Start everything in order and stay until cancelled."""
        await supervisor.start(self._engines())
        told = await asyncio.to_thread(prepare)
        workers = min(os.cpu_count() or 1, 2) if settings.EMBEDDED else os.cpu_count() or 1
        await supervisor.start(
            [
                programs.web(settings.HOST, settings.PORT, workers=workers),
                programs.worker("worker", settings.CELERY_QUEUES),
                programs.worker("suspects", settings.CELERY_SLOW_QUEUES),
                programs.beat(),
            ]
        )
        self.stdout.write(welcome(told))
        self.stdout.flush()
        await asyncio.Event().wait()

    def _engines(self) -> list[Program]:
        engines = []
        if settings.REDIS_URL.removeprefix("unix://") == str(settings.VALKEY_SOCKET):
            programs.clear_socket(settings.VALKEY_SOCKET)
            engines.append(programs.valkey(settings.DATA_DIR / "valkey", settings.VALKEY_SOCKET))
        engines.append(programs.relayd(settings.RELAYD_SOCKET, settings.RELAYD_STATE))
        return engines

    def _say(self, name: str, line: str) -> None:
        try:
            self.stdout.write(f"{name:<10} | {line}")
            self.stdout.flush()
        except BrokenPipeError:
            # Whoever read the stream has gone. The portal goes on, so later lines go nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def prepare() -> str:
    """Bring the database up to date and make what a first start needs. Returns what those steps tell the operator."""
    told = StringIO()
    # For each new table Django renders every model anew: looking for garbage meanwhile takes a fifth of the time.
    gc.disable()
    call_command("migrate", interactive=False, verbosity=0)
    gc.enable()
    settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)
    if not settings.WHITENOISE_USE_FINDERS:
        call_command("collectstatic", interactive=False, verbosity=0)
    call_command("create_first_admin", stdout=told)
    call_command("ensure_this_machine", stdout=told)
    call_command("ensure_sandbox", stdout=told)
    if Server.objects.filter(runtime=Server.Runtime.PROCESS).exists():
        told.write(
            "\n!! Relays of the process runtime are plain processes of this machine: no limits, no isolation.\n"
            "!! Good for trying out, NOT FOR PRODUCTION. Add a server with a Docker engine for that.\n"
        )
    connections.close_all()
    return told.getvalue()


def welcome(told: str) -> str:
    """The block that ends the start: where to go and what to know."""
    mail = f"Mail is not sent but written to {settings.MAIL_DIR}" if settings.MAIL_DIR else "Mail is sent by SMTP"
    lines = [
        f"The portal is ready: {settings.PUBLIC_URL}",
        f"Data: {settings.DATA_DIR}",
        mail,
        *told.strip().splitlines(),
        "Ctrl-C stops everything.",
    ]
    return "\n".join(["", RULE, *(f"  {line}".rstrip() for line in lines), RULE, ""])
