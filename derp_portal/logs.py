"""One readable stream of logs (or JSON lines, for machines), with the request's id in each line."""

from __future__ import annotations

import logging.config
import re
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_PATHS = re.compile(
    r"(/derp/admit/|/derpmap/|/let-in/|/accounts/confirm-email/|/accounts/password/reset/key/)[^/\s?]+"
)
_QUERY = re.compile(r"^([A-Z]+ /[^\s?]*)\?.*")


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Addresses that are keys in themselves (doors, maps, links in mails) are logged without their secret part.

    Query strings go as a whole: people look serial numbers up in them.
    """
    for name, value in event.items():
        if isinstance(value, str) and "/" in value:
            event[name] = _QUERY.sub(r"\1?***", _SECRET_PATHS.sub(r"\1***", value))
    return event


def one_line_each(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Requests and tasks are logged when they finish; healthy health checks not at all."""
    if event.get("event") in ("request_started", "task_started"):
        raise structlog.DropEvent
    if event.get("request") == "GET /healthz" and event.get("code") == 200:
        raise structlog.DropEvent
    return event


def configure(options: dict[str, Any]) -> None:
    """Set up structlog and the standard library's logging. `options`: `json` (bool), `level` (name)."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if options["json"] else structlog.dev.ConsoleRenderer(colors=False)
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
                    "foreign_pre_chain": shared,
                }
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": options["level"]},
            "loggers": {
                # One line a request (from django_structlog) is enough.
                "django.server": {"level": "WARNING"},
                "django.request": {"level": "ERROR"},
                "celery.beat": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "celery.worker.strategy": {"level": "WARNING"},
                "docker": {"level": "WARNING"},
                "httpx": {"level": "WARNING"},
            },
        }
    )
    structlog.configure(
        processors=[
            *shared[:1],
            structlog.stdlib.filter_by_level,
            one_line_each,
            *shared[1:],
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
