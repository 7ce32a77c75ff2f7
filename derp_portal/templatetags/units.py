"""`{% load units %}`: amounts as people read them, from `derp_portal.lib`."""

from __future__ import annotations

from django import template

from derp_portal.lib.money import for_people
from derp_portal.lib.units import data_amount, megabits

register = template.Library()
register.filter("data_amount", data_amount)
register.filter("megabits", megabits)
register.filter("money", for_people)
