"""Composition: settings, urls, celery, the API's root, dashboards and health. Nobody imports it but the entry points."""

from derp_portal.celery import app as celery_app

__all__ = ["celery_app"]
