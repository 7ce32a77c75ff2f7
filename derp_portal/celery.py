"""The Celery application: queues by kind, so that slow work of one kind never delays another."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings
from django_structlog.celery.steps import DjangoStructLogInitStep
from kombu import Queue

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "derp_portal.settings")

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
