"""What customers type about serials and leases, and how they filter their lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import django_filters
from django import forms
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _

from serials.codes import canonical, grouped, is_well_formed
from serials.models import LeaseTerm, SerialNumber
from serials.services.activation import Effect, How

LEASE_NAME_LENGTH = 60


class CodeForm(forms.Form):
    """A serial number, however it was typed or pasted: whether it is one, the service says."""

    code = forms.CharField(
        label=_("Serial number"),
        max_length=200,
        help_text=_("24 letters and digits. Capitals, spaces and dashes do not matter."),
        widget=forms.TextInput(
            attrs={
                "class": "form-control-code",
                "autocapitalize": "characters",
                "autocomplete": "off",
                "spellcheck": "false",
                "placeholder": "XXXX-XXXX-XXXX-XXXX-XXXX-XXXX",
            }
        ),
        error_messages={"required": _("Type or paste your serial number.")},
    )


class ChoiceForm(forms.Form):
    """What to do with a serial's days: one of the effects that the service has offered."""

    choice = forms.ChoiceField(
        error_messages={
            "required": _("Choose what to do with the days."),
            "invalid_choice": _("This choice is not open any more. Please choose again."),
        }
    )
    name = forms.CharField(
        label=_("Name of the new lease"),
        max_length=LEASE_NAME_LENGTH,
        required=False,
        help_text=_("Such as the tailnet it is for. You can change it later."),
        widget=forms.TextInput(attrs={"class": "form-control", "autocomplete": "off"}),
    )

    def __init__(
        self, *args: Any, effects: Sequence[Effect], preferred_lease: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.effects = {effect.key: effect for effect in effects}
        self.fields["choice"].choices = [(key, key) for key in self.effects]  # type: ignore[attr-defined]
        wished = f"{How.QUEUE}:{preferred_lease}"
        self.fields["choice"].initial = wished if wished in self.effects else next(iter(self.effects))

    @property
    def chosen(self) -> str:
        """The key of the effect that is marked."""
        value = self["choice"].value()
        return str(value if value in self.effects else self.fields["choice"].initial)

    def effect(self) -> Effect:
        """What was chosen in a valid form."""
        return self.effects[self.cleaned_data["choice"]]


class LeaseNameForm(forms.Form):
    """Another name for a lease."""

    name = forms.CharField(
        label=_("Name"), max_length=LEASE_NAME_LENGTH, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )


class NextTermForm(forms.Form):
    """Which term the reader saw as the next one."""

    term_id = forms.IntegerField(min_value=0, widget=forms.HiddenInput)


class SerialFilter(django_filters.FilterSet):
    """By part of the code, plan or lease, and by status."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    status = django_filters.ChoiceFilter(
        label=_("Status"),
        empty_label=_("All"),
        choices=[(status.value, status.label) for status in (SerialNumber.Status.USED, SerialNumber.Status.EXPIRED)],
    )

    class Meta:
        model = SerialNumber
        fields = ("search", "status")

    def by_search(self, queryset: QuerySet[SerialNumber], _name: str, value: str) -> QuerySet[SerialNumber]:
        """Serials with that piece of a code, or whose plan or lease is called so."""
        named = (
            Q(plan__name__icontains=value) | Q(plan__name_zh__icontains=value) | Q(term__lease__name__icontains=value)
        )
        code = canonical(value)
        return queryset.filter(named | Q(code__contains=code) if code else named)


class TermFilter(django_filters.FilterSet):
    """By lease or plan, by what granted it, and by whether it is over."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    source = django_filters.ChoiceFilter(label=_("Granted by"), choices=LeaseTerm.Source.choices, empty_label=_("All"))
    state = django_filters.ChoiceFilter(label=_("State"), choices=LeaseTerm.State.choices, empty_label=_("All"))

    class Meta:
        model = LeaseTerm
        fields = ("search", "source", "state")

    def by_search(self, queryset: QuerySet[LeaseTerm], _name: str, value: str) -> QuerySet[LeaseTerm]:
        """Terms whose lease or plan is called so."""
        return queryset.filter(
            Q(lease__name__icontains=value) | Q(plan__name__icontains=value) | Q(plan__name_zh__icontains=value)
        )


def readable_code(text: str) -> str:
    """What was typed, grouped when it is a whole serial number; else untouched, so that nothing typed is lost."""
    code = canonical(text)
    return grouped(code) if is_well_formed(code) else text
