"""What customers type about their devices and relays, and how they filter their lists."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import django_filters
from django import forms
from django.db.models import Q, QuerySet
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.models import User
from fleet.acl.decision import Mode
from fleet.models import AclLog, ControlServer, Knock, NodeKey, RelayEvent
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


LEARN_HOURS = ((1, _("1 hour")), (24, _("24 hours")), (168, _("7 days")))


class PolicyForm(forms.Form):
    """How a customer's doors decide about devices that are not listed."""

    mode = forms.ChoiceField(
        label=_("Who may connect"),
        choices=(
            (Mode.CLOSED, _("Closed: the devices listed below, and nobody else")),
            (Mode.LEARN, _("Learning: whoever connects is listed below; after that, closed")),
            (Mode.DELEGATE, _("Your own Headscale decides: it is asked at every connection")),
            (Mode.OPEN, _("Open: everybody who has your map, at your own risk")),
        ),
        widget=forms.RadioSelect,
    )
    hours = forms.TypedChoiceField(label=_("Learn for"), choices=LEARN_HOURS, coerce=int, initial=24, required=False)
    networks = forms.CharField(
        label=_("Networks"),
        required=False,
        max_length=5000,
        help_text=_("One a line, such as 203.0.113.0/24. Whoever comes from there gets in without being listed."),
        widget=forms.Textarea(attrs={"rows": 3, "class": "form-control-code", "spellcheck": "false"}),
    )
    delegate_url = forms.CharField(
        label=_("Your Headscale's verifier"),
        required=False,
        max_length=500,
        help_text=_(
            "Such as https://headscale.example.com/verify. While it is silent, devices it let in that day stay in."
        ),
        widget=forms.URLInput(attrs={"spellcheck": "false", "placeholder": "https://…/verify"}),
    )
    is_sure = forms.BooleanField(
        label=_("I know that strangers find open relays within days, and that their traffic counts as mine."),
        required=False,
    )

    def clean(self) -> dict[str, Any]:
        """Opening takes a second yes; networks come out as they are stored."""
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if given.get("mode") == Mode.OPEN and not given.get("is_sure"):
            self.add_error("is_sure", _("Tick this to open your relays to everybody."))
        if given.get("mode") == Mode.DELEGATE and not given.get("delegate_url", "").strip():
            self.add_error("delegate_url", _("Which address is to be asked?"))
        return given


class ControlServerForm(forms.Form):
    """Where a customer's devices are known, and what opens it."""

    kind = forms.ChoiceField(label=_("Control server"), choices=ControlServer.Kind.choices, widget=forms.RadioSelect)
    address = forms.CharField(
        label=_("Address of Headscale"),
        required=False,
        max_length=500,
        widget=forms.URLInput(attrs={"spellcheck": "false", "placeholder": "https://headscale.example.com"}),
    )
    client_id = forms.CharField(
        label=_("OAuth client ID of Tailscale"),
        required=False,
        max_length=100,
        help_text=_("Empty for an API access token."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    credential = forms.CharField(
        label=_("Secret or key"),
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
    )
    tailnet = forms.CharField(
        label=_("Tailnet"),
        required=False,
        max_length=200,
        help_text=_("Only for Tailscale; empty for the one that the key belongs to."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def clean(self) -> dict[str, Any]:
        """A Headscale has an address."""
        given: dict[str, Any] = super().clean() or self.cleaned_data
        if given.get("kind") == ControlServer.Kind.HEADSCALE and not given.get("address", "").strip():
            self.add_error("address", _("Which address does it have?"))
        return given


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


class DoorLogFilter(django_filters.FilterSet):
    """By a device's name, key or address, and by what the door answered."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    is_allowed = django_filters.ChoiceFilter(
        label=pgettext_lazy("door", "Answer"),
        choices=(("true", _("Let in")), ("false", _("Refused"))),
        method="by_answer",
        empty_label=_("All"),
    )

    class Meta:
        model = AclLog
        fields = ("search", "is_allowed")

    def __init__(self, *args: Any, owner: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.owner = owner

    def by_search(self, queryset: QuerySet[AclLog], _name: str, value: str) -> QuerySet[AclLog]:
        """A whole address; or devices of the owner, listed or turned away, of that name or key.

        They are looked up first: the log itself is too long to look for parts of words in.
        """
        text = value.strip()
        if is_address(text):
            return queryset.filter(ip_address=text)
        listed = NodeKey.objects.filter(Q(name__icontains=text) | Q(key__icontains=text), owner=self.owner)
        knocked = Knock.objects.filter(user=self.owner, node_key__icontains=text)
        keys = {text, *listed.values_list("key", flat=True), *knocked.values_list("node_key", flat=True)}
        return queryset.filter(node_key__in=keys)

    def by_answer(self, queryset: QuerySet[AclLog], _name: str, value: str) -> QuerySet[AclLog]:
        """Let in, or refused."""
        return queryset.filter(is_allowed=value == "true")


def is_address(text: str) -> bool:
    """Whether it is an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
