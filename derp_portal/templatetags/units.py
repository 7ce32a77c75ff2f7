"""`{% load units %}`: amounts as people read them, from `derp_portal.lib.units`."""

from __future__ import annotations

from django import template

from derp_portal.lib.units import gigabytes, megabits

register = template.Library()
register.filter("gigabytes", gigabytes)
register.filter("megabits", megabits)
