"""Composition: settings, urls, celery, the API's root, dashboards health. Only entry points import it."""

from derp_portal.celery import app as celery_app

__all__ = ["celery_app"]
