"""What questions about resellers ask for."""

from __future__ import annotations

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget

from billing.admin.forms import QuestionForm, ReasonForm
from resellers.models import Level, Reseller


class ResellerField(forms.CharField):
    """An active reseller by link code or user name; there may be thousands, too many for a list to choose from."""

    widget = UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"})

    def clean(self, value: Any) -> Reseller | None:
        """The reseller; None for nobody."""
        text = super().clean(value).strip()
        if not text:
            return None
        named = Q(code=text.lower()) | Q(user__username=text)
        found = list(Reseller.objects.filter(named, state=Reseller.State.ACTIVE).select_related("user")[:2])
        if len(found) != 1:
            # One person's code may be another one's name.
            found = [reseller for reseller in found if reseller.code == text.lower()]
        if not found:
            raise ValidationError(_("There is no active reseller with this link code or user name."))
        return found[0]


class AssignForm(ReasonForm):
    """Whose customer somebody is from now on."""

    reseller = ResellerField(
        label=gettext_lazy("Reseller"),
        max_length=150,
        required=False,
        help_text=gettext_lazy("Link code or user name. Empty: nobody's."),
    )
    field_order = ("reseller", "reason")


class ReassignForm(AssignForm):
    """Whom a lease's customer sees as their seller from now on."""

    def __init__(self, data: Any, **options: Any) -> None:
        super().__init__(data, **options)
        self.fields["reseller"].help_text = _("Link code or user name. Empty: the portal itself.")


class LevelForm(QuestionForm):
    """At which level a reseller earns and buys."""

    level = forms.ModelChoiceField(Level.objects.all(), label=gettext_lazy("Level"), widget=UnfoldAdminSelectWidget)


class PaidForm(QuestionForm):
    """How a settlement was paid."""

    reference = forms.CharField(
        label=gettext_lazy("Reference of the payment"),
        max_length=128,
        help_text=gettext_lazy("The number of your transfer, or what shows that it was sent. The reseller sees it."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )
