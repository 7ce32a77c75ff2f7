"""Sign-up, profile, token and ticket forms."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar
from zoneinfo import available_timezones

from allauth.account.forms import SignupForm as AllauthSignupForm
from django import forms
from django.conf import settings
from django.utils.translation import gettext_lazy as _
from django_altcha import AltchaField

from accounts.models import ApiToken, User
from accounts.services.tickets import LONGEST_SUBJECT, LONGEST_TEXT
from accounts.subjects import Subject
from accounts.validators import validate_timezone
from derp_portal.lib import clock
from derp_portal.lib.errors import PortalError

if TYPE_CHECKING:
    _UserForm = forms.ModelForm[User]
else:
    _UserForm = forms.ModelForm

# About a second of work on a phone.
ALTCHA_WORK = 50_000


class SignupForm(AllauthSignupForm):
    """allauth's form, a proof of work against bots, and the browser's time zone where a script fills it in."""

    timezone = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput(attrs={"data-timezone": ""}))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if settings.ALTCHA_VERIFICATION_ENABLED:
            self.fields["altcha"] = AltchaField(label="", maxnumber=ALTCHA_WORK, hidefooter=True, hidelogo=True)

    def clean_timezone(self) -> str:
        """The zone, or "" for one we do not know: nobody can correct a hidden field."""
        zone = self.cleaned_data["timezone"]
        return zone if zone in available_timezones() else ""


class ProfileForm(_UserForm):
    """How the portal talks to a person."""

    class Meta:
        model = User
        fields = ("language", "timezone")
        labels: ClassVar[dict[str, Any]] = {"timezone": _("Time zone")}
        help_texts: ClassVar[dict[str, Any]] = {
            "language": _("For pages and mail. Empty: as your browser asks."),
            "timezone": _("Type a city, such as Shanghai. Empty: the operator's zone."),
        }
        # A list of suggestions that one searches by typing; the page holds the datalist.
        widgets: ClassVar[dict[str, Any]] = {
            "timezone": forms.TextInput(attrs={"list": "timezones", "autocomplete": "off", "spellcheck": "false"})
        }

    def clean_timezone(self) -> str:
        """The zone's own name, also for one typed with spaces or in small letters."""
        typed: str = self.cleaned_data["timezone"].strip().replace(" ", "_")
        zone = _ZONES.get(typed.lower(), typed)
        if zone:
            validate_timezone(zone)
        return zone


class TokenForm(forms.Form):
    """A new API token."""

    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("What will use it, so that you know which one to revoke.")
    )
    scopes = forms.MultipleChoiceField(label=_("May use"), widget=forms.CheckboxSelectMultiple)
    valid_days = forms.TypedChoiceField(
        label=_("Valid for"),
        coerce=int,
        initial=90,
        choices=[(30, _("30 days")), (90, _("90 days")), (365, _("One year")), (0, _("Until revoked"))],
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["scopes"].choices = [  # type: ignore[attr-defined]
            (scope.value, scope.label) for scope in ApiToken.Scope if scope.is_for(user)
        ]

    def expires_at(self) -> datetime | None:
        """When the token ends, counted from now; None for never."""
        days = self.cleaned_data["valid_days"]
        return clock.now() + clock.days(days) if days else None


class ReplyForm(forms.Form):
    """Words for a ticket, and a key, so that a double click writes once."""

    text = forms.CharField(
        label=_("Your message"),
        max_length=LONGEST_TEXT,
        strip=False,  # The service trims; what was typed stays in the form.
        widget=forms.Textarea(attrs={"rows": 6}),
        error_messages={
            "required": _("Please write something: the message is empty."),
            "max_length": _("At most %(limit_value)d characters, please; these are %(show_value)d."),
        },
    )
    client_key = forms.CharField(max_length=40, required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.initial.setdefault("client_key", secrets.token_urlsafe(16))

    @property
    def key(self) -> str:
        """Under which what a valid form says is known; apart from keys that come by the API."""
        said = self.cleaned_data["client_key"]
        return f"page:{said}" if said else ""

    def refuse(self, error: PortalError) -> None:
        """Put the refusal beside the field that it speaks of, or above all."""
        field = next((one["field"] for one in error.extra.get("fields", ())), None)
        self.add_error(field if field in self.fields else None, str(error))


class TicketForm(ReplyForm):
    """A new ticket."""

    about = forms.ChoiceField(label=_("What is it about?"), required=False)
    subject = forms.CharField(
        label=_("Subject"),
        max_length=LONGEST_SUBJECT,
        help_text=_("In a few words."),
        error_messages={"required": _("Please say in a few words what it is about.")},
    )
    field_order = ("about", "subject", "text", "client_key")

    def __init__(self, *args: Any, choices: Sequence[Subject], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = [("", _("Something else")), *((subject.about, subject.label) for subject in choices)]
        self.fields["about"].choices = options  # type: ignore[attr-defined]
        self.fields["about"].widget.attrs["class"] = "form-select"


_ZONES = {zone.lower(): zone for zone in available_timezones()}


def zone_names() -> list[str]:
    """Zones worth suggesting: those named after a place, and UTC."""
    places = (
        zone for zone in available_timezones() if "/" in zone and not zone.startswith(("Etc/", "SystemV/", "US/"))
    )
    return ["UTC", *sorted(places)]
