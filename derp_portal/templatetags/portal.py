"""What the portal's templates need beyond Django: icons, times, navigation, and the state of a filter form."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import tablericons
from django import forms, template
from django.db.models import Model
from django.forms.boundfield import BoundField
from django.http import QueryDict
from django.template import Context
from django.urls import NoReverseMatch, reverse
from django.utils import formats, timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from derp_portal.lib.wording import enumeration

register = template.Library()


@lru_cache(maxsize=512)
def _svg(name: str, size: int, css: str, label: str) -> SafeString:
    path = name if "/" in name else f"outline/{name}"
    attributes = {"class": f"icon {css}".strip(), "stroke_width": "1.75", "focusable": "false"}
    if label:
        attributes |= {"role": "img", "aria_label": label}
    else:
        attributes["aria_hidden"] = "true"
    # The element tree behind it escapes every attribute.
    return mark_safe(tablericons._render_icon(path, size, **attributes))  # noqa: S308


@register.simple_tag
def icon(name: str, size: int = 20, css: str = "", label: str = "") -> SafeString:
    """Draw the Tabler icon `name` as inline SVG, `size` pixels square, in the colour of the text around it.

    Hidden from screen readers unless `label` says what it means. Names are those of tabler.io/icons; "filled/x"
    takes the filled one. Raises tablericons.IconDoesNotExist.
    """
    return _svg(str(name), int(size), str(css), str(label))


@register.simple_tag
def relative_time(value: dt.datetime | None, empty: str = "–") -> SafeString | str:
    """Show `value` as "3 hours ago", the exact time on hover; without scripts the exact time. `empty` is for None."""
    if not value:
        return empty
    local = timezone.localtime(value)
    exact = f"{formats.date_format(local, 'DATETIME_FORMAT')} {local.tzname()}"
    utc = value.astimezone(dt.UTC).isoformat(timespec="seconds")
    return format_html('<time datetime="{}" title="{}" data-relative>{}</time>', utc, exact, exact)


@register.inclusion_tag("layout/nav_link.html", takes_context=True)
def nav_link(
    context: Context, url_name: str, label: str, icon: str = "", css: str = "nav-link", also: str = ""
) -> dict[str, Any]:
    """Link to the page `url_name`, marked when it is the present one; nothing where this installation lacks the page.

    `also` lists, separated by spaces, further URL names that belong to the same entry.
    """
    try:
        url = reverse(url_name)
    except NoReverseMatch:
        url = ""
    match = getattr(context.get("request"), "resolver_match", None)
    is_current = match is not None and match.view_name in (url_name, *also.split())
    return {"url": url, "label": label, "icon": icon, "css": css, "is_current": is_current}


@dataclass(frozen=True, slots=True)
class FilterChip:
    """One filter in force, in words, and the query string that lifts it."""

    label: str
    value: str
    remove_query: str


@dataclass(frozen=True, slots=True)
class FilterState:
    """What a filter bar shows beside its fields.

    `kept` are (name, value) pairs of the query that belong to others (sorting); `clear_query` lifts every filter.
    """

    chips: list[FilterChip]
    kept: list[tuple[str, str]]
    clear_query: str


@register.simple_tag(takes_context=True)
def filter_state(context: Context, form: forms.BaseForm, page_field: str = "page") -> FilterState:
    """Read from the request which filters of the bound GET `form` are in force. Paging starts anew with each change."""
    query: QueryDict = context["request"].GET.copy()
    query.pop(page_field, None)
    owned = {bound.name: _keys_of(bound, query) for bound in form}
    form.is_valid()  # Fills cleaned_data with the fields that are right, whether or not all are.
    cleaned: dict[str, Any] = getattr(form, "cleaned_data", {})
    chips = [
        FilterChip(str(bound.label), shown, _without(query, owned[bound.name]))
        for bound in form
        if not bound.is_hidden and (shown := _in_words(bound, cleaned.get(bound.name)))
    ]
    taken = {key for keys in owned.values() for key in keys}
    kept = [(key, value) for key, values in query.lists() if key not in taken for value in values]
    return FilterState(chips=chips, kept=kept, clear_query=_without(query, taken))


def _keys_of(bound: BoundField, query: QueryDict) -> set[str]:
    """Return the query's keys that fill the field; range widgets spread over name_min, name_after and the like."""
    suffixes = ("", "_0", "_1", "_min", "_max", "_after", "_before")
    return {bound.html_name + suffix for suffix in suffixes} & set(query)


def _without(query: QueryDict, keys: Iterable[str]) -> str:
    rest = query.copy()
    for key in keys:
        rest.pop(key, None)
    return "?" + rest.urlencode()


def _in_words(bound: BoundField, value: Any) -> str:
    """Return the chosen value as the form shows it, or "" when the field filters nothing."""
    if value is None or value == "":
        return ""
    if isinstance(value, slice):
        ends = [_date_or_text(end) if end is not None else "…" for end in (value.start, value.stop)]
        return " – ".join(ends)
    if isinstance(value, Model) or not hasattr(value, "__iter__") or isinstance(value, str):
        chosen = [value]
    else:
        chosen = list(value)
    labels = {str(key): str(label) for key, label in _flat_choices(bound.field)}
    return enumeration(labels.get(str(one), _date_or_text(one)) for one in chosen)


def _flat_choices(field: forms.Field) -> list[tuple[Any, Any]]:
    # A model choice would query the whole table for its labels; its values name themselves.
    if isinstance(field, forms.ModelChoiceField) or not isinstance(field, forms.ChoiceField | forms.NullBooleanField):
        return []
    flat: list[tuple[Any, Any]] = []
    for key, label in getattr(field, "choices", None) or field.widget.choices:
        flat.extend(label if isinstance(label, list | tuple) else [(key, label)])
    return flat


def _date_or_text(value: Any) -> str:
    if isinstance(value, dt.datetime):
        return str(formats.date_format(timezone.localtime(value), "SHORT_DATETIME_FORMAT"))
    if isinstance(value, dt.date):
        return str(formats.date_format(value, "SHORT_DATE_FORMAT"))
    return str(value)
