"""The Celery application: queues by kind, so that slow work of one kind never delays another."""

from __future__ import annotations

import os
from typing import Any

import structlog
from celery import Celery
from celery.signals import setup_logging, task_failure
from django.conf import settings
from django_structlog.celery.steps import DjangoStructLogInitStep
from kombu import Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "derp_portal.settings")

logger = structlog.get_logger(__name__)

app = Celery("derp_portal")
app.config_from_object("django.conf:settings", namespace="CELERY")
# A promise: this module is imported with the package, before the settings in it can be read.
app.add_defaults(
    lambda: {"task_queues": [Queue(name) for name in settings.CELERY_QUEUES + settings.CELERY_SLOW_QUEUES]}
)
app.steps["worker"].add(DjangoStructLogInitStep)
app.autodiscover_tasks()


@setup_logging.connect
def _keep_our_logging(**_: Any) -> None:
    """Django's LOGGING stands; without this receiver Celery would install handlers of its own."""


@task_failure.connect
def _keep_failure(
    sender: Any = None,
    task_id: str = "",
    exception: BaseException | None = None,
    args: Any = (),
    kwargs: Any = None,
    einfo: Any = None,
    **_: Any,
) -> None:
    """Operators read of it in the system log. Whatever goes wrong here, the worker goes on."""
    name = getattr(sender, "name", "") or str(sender)
    try:
        from accounts.services import note_failure  # Models are not to be had while Celery is being set up.

        note_failure(
            task=name,
            task_id=task_id or "",
            # A worker that was lost may hand over nothing, or text.
            args=args if isinstance(args, list | tuple) else (),
            kwargs=kwargs if isinstance(kwargs, dict) else {},
            error=exception if exception is not None else "",
            traceback=str(getattr(einfo, "traceback", "") or ""),
        )
    except Exception as error:  # noqa: BLE001 - a database that is away must not take the worker along
        logger.error("task_failure_not_kept", task=name, task_id=task_id, error=repr(error))
