"""What the operator is asked for: how many serials, until when, for whom."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django import forms
from django.conf import settings
from django.core.validators import MaxValueValidator
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.widgets import (
    UnfoldAdminDateWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from accounts.models import User
from derp_portal.lib.clock import FURTHEST, end_of_day
from serials.models import LONGEST_DAYS, Lease, Plan
from serials.services.numbers import MOST_AT_ONCE


class LastDayField(forms.DateField):
    """A day that counts to its end in the operator's zone; cleans to that moment."""

    widget = UnfoldAdminDateWidget
    default_validators = [MaxValueValidator(FURTHEST.date() - timedelta(days=1))]

    def clean(self, value: Any) -> datetime | None:
        """The end of the day, None for none."""
        day: date | None = super().clean(value)
        return end_of_day(day, ZoneInfo(settings.TIME_ZONE)) if day else None


def _until_midnight() -> str:
    return _("To the end of that day, time zone %(zone)s.") % {"zone": settings.TIME_ZONE}


class GenerateForm(forms.Form):
    """Serials to make."""

    count = forms.IntegerField(
        label=gettext_lazy("How many"),
        min_value=1,
        max_value=MOST_AT_ONCE,
        initial=100,
        widget=UnfoldAdminIntegerFieldWidget,
    )
    plan = forms.ModelChoiceField(Plan.objects.all(), label=gettext_lazy("Plan"), widget=UnfoldAdminSelectWidget)
    duration_days = forms.IntegerField(
        label=gettext_lazy("Days"),
        min_value=1,
        max_value=LONGEST_DAYS,
        required=False,
        help_text=gettext_lazy("Empty: as many as the plan has."),
        widget=UnfoldAdminIntegerFieldWidget,
    )
    activate_before = LastDayField(label=gettext_lazy("Last day to redeem"), required=False)
    note = forms.CharField(
        label=gettext_lazy("Note"),
        max_length=200,
        required=False,
        help_text=gettext_lazy("For you: who they are for, which order."),
        widget=UnfoldAdminTextInputWidget,
    )

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        self.fields["activate_before"].help_text = _("Empty: no limit.") + " " + _until_midnight()


class RenewForm(forms.Form):
    """The day up to which a lease shall run."""

    until = LastDayField(label=gettext_lazy("Runs until"))

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        self.fields["until"].help_text = _until_midnight()


class NoticeForm(forms.Form):
    """Which of the mails about a lease."""

    kind = forms.ChoiceField(
        label=gettext_lazy("What it says"), choices=Lease.Notice.choices, widget=UnfoldAdminSelectWidget
    )


class RenewUserForm(RenewForm):
    """The same for a user; `asks_plan` when there is no lease that could go on."""

    plan = forms.ModelChoiceField(
        Plan.objects.all(),
        label=gettext_lazy("Plan"),
        help_text=gettext_lazy("There is no lease to renew: a new one of this plan begins now."),
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any = None, *, asks_plan: bool) -> None:
        super().__init__(data)
        if not asks_plan:
            del self.fields["plan"]


class CloseAccountForm(forms.Form):
    """The user name, typed: closing an account ends everything its owner has."""

    username = forms.CharField(
        label=gettext_lazy("User name"),
        help_text=gettext_lazy("Type the name of the user whose account is closed."),
        widget=UnfoldAdminTextInputWidget(attrs={"autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, *, user: User) -> None:
        super().__init__(data)
        self.user = user

    def clean_username(self) -> str:
        """Only that very name will do."""
        typed: str = self.cleaned_data["username"]
        if typed != self.user.username:
            raise forms.ValidationError(_("This is not the name of the user. Nothing was closed."))
        return typed
