"""What customers type about their devices and relays, and how they filter their lists."""

from __future__ import annotations

from typing import Any

import django_filters
from django import forms
from django.db.models import Q, QuerySet
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _

from fleet.models import NodeKey, RelayEvent
from fleet.models.relays import REGION_ID_FIRST, REGION_ID_LAST


class DevicesForm(forms.Form):
    """Node keys as they come out of a terminal: one a line, with or without a name."""

    lines = forms.CharField(
        label=_("Node keys"),
        # The service reads at most 1000 devices, each a key and a name.
        max_length=200_000,
        help_text=_("One a line: nodekey: and 64 characters, then, if you like, a space and a name."),
        widget=forms.Textarea(
            attrs={
                "rows": 4,
                "class": "form-control-code",
                "autocapitalize": "none",
                "autocomplete": "off",
                "spellcheck": "false",
                "placeholder": "nodekey:…",
            }
        ),
        error_messages={"required": _("Paste at least one node key.")},
    )


class RegionIdForm(forms.Form):
    """The number under which a relay stands in the customer's map."""

    region_id = forms.IntegerField(
        label=_("Region id"),
        min_value=REGION_ID_FIRST,
        max_value=REGION_ID_LAST,
        help_text=format_lazy(
            _("A number from {first} to {last} that nothing else in your map uses."),
            first=REGION_ID_FIRST,
            last=REGION_ID_LAST,
        ),
    )


class NodeKeyFilter(django_filters.FilterSet):
    """By name or key."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")

    class Meta:
        model = NodeKey
        fields: tuple[str, ...] = ()

    def by_search(self, queryset: QuerySet[NodeKey], _name: str, value: str) -> QuerySet[NodeKey]:
        """Devices whose name or key contains the words."""
        return queryset.filter(Q(name__icontains=value) | Q(key__icontains=value))


class EventFilter(django_filters.FilterSet):
    """By what happened, by when, and by the relay's code."""

    search = django_filters.CharFilter(label=_("Relay"), field_name="relay__code", lookup_expr="icontains")
    kind = django_filters.ChoiceFilter(label=_("Event"), choices=RelayEvent.Kind.choices, empty_label=_("All"))

    class Meta:
        model = RelayEvent
        fields = ("search", "kind")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.form.fields["search"].widget.attrs["autocomplete"] = "off"
