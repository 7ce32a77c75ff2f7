"""The form of a server: in the units people use, and with credentials that go in and never come out again."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.widgets import (
    UnfoldAdminDecimalFieldWidget,
    UnfoldAdminFileFieldWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

from derp_portal.lib.errors import PortalError
from derp_portal.lib.units import GIGABYTE
from fleet.models import Server
from fleet.services.hosts import CHANGEABLE, CREDENTIALS

IN_OTHER_UNITS = ("monthly_cost", "allowance_bytes")
PLAIN = tuple(name for name in CHANGEABLE if name not in (*CREDENTIALS, *IN_OTHER_UNITS))
"""Fields that the form shows as the row keeps them."""

DECIMALS = dict.fromkeys(("JPY", "KRW", "VND", "CLP", "ISK", "UGX", "XAF", "XOF", "PYG", "RWF"), 0) | dict.fromkeys(
    ("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3
)
"""Currencies whose smallest unit is not the hundredth."""

PEM_LIMIT = 64 * 1024


class WriteOnlyTextarea(UnfoldAdminTextareaWidget):
    """Takes a secret and never shows one, not even what was just sent and refused."""

    def format_value(self, value: Any) -> None:
        """Nothing, whatever there is."""


def _pem_text(label: Any) -> forms.CharField:
    plain = {"rows": 3, "spellcheck": "false", "autocomplete": "off", "placeholder": "-----BEGIN …-----"}
    return forms.CharField(label=label, required=False, widget=WriteOnlyTextarea(attrs=plain))


def _pem_file() -> forms.FileField:
    return forms.FileField(label=gettext_lazy("or as a file"), required=False, widget=UnfoldAdminFileFieldWidget)


def _amount(label: Any, *, decimals: int, help_text: Any = "") -> forms.DecimalField:
    return forms.DecimalField(
        label=label,
        required=False,
        min_value=0,
        max_digits=18,
        decimal_places=decimals,
        help_text=help_text,
        widget=UnfoldAdminDecimalFieldWidget(attrs={"step": "any"}),
    )


class ServerForm(forms.ModelForm[Server]):
    """What an operator may say of a server. `refusal` is what the service answered to these very values."""

    refusal: PortalError | None = None

    tls_ca_text = _pem_text(gettext_lazy("Certificate authority"))
    tls_ca_file = _pem_file()
    tls_certificate_text = _pem_text(gettext_lazy("Client certificate"))
    tls_certificate_file = _pem_file()
    tls_key_text = _pem_text(gettext_lazy("Client key"))
    tls_key_file = _pem_file()
    forget_credentials = forms.BooleanField(
        label=gettext_lazy("Clear all three and use the portal's own authority"),
        required=False,
        widget=UnfoldBooleanSwitchWidget,
    )
    monthly_cost_amount = _amount(gettext_lazy("Monthly cost"), decimals=3)
    allowance_gb = _amount(
        gettext_lazy("Monthly allowance"), decimals=9, help_text=gettext_lazy("GB. Empty = no limit.")
    )

    class Meta:
        model = Server
        fields = PLAIN
        widgets = {
            "ssh_host_key": UnfoldAdminTextareaWidget(attrs={"rows": 2, "spellcheck": "false"}),
            "cost_currency": UnfoldAdminTextInputWidget(attrs={"placeholder": "CNY", "size": 3}),
        }

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        server = self.instance
        if server.monthly_cost is not None:
            self.initial["monthly_cost_amount"] = Decimal(server.monthly_cost).scaleb(-_decimals(server.cost_currency))
        if server.allowance_bytes is not None:
            self.initial["allowance_gb"] = Decimal(server.allowance_bytes) / GIGABYTE
        for name in CREDENTIALS:
            # Somebody who may only look is shown no form.
            if field := self.fields.get(f"{name}_text"):
                is_set = bool(getattr(server, name))
                field.help_text = _("Set. Left empty, it is kept.") if is_set else _("Not set.")

    def clean_cost_currency(self) -> str:
        """Three capital letters, or nothing."""
        currency = str(self.cleaned_data["cost_currency"]).strip().upper()
        if currency and not re.fullmatch("[A-Z]{3}", currency):
            raise ValidationError(_("A currency is named by three letters, such as CNY or USD."))
        return currency

    def clean(self) -> dict[str, Any]:
        """Show the service's answer; put every other mistake beside its field."""
        data = super().clean() or {}
        if self.refusal is not None:
            raise ValidationError(str(self.refusal))
        first, last = data.get("port_first"), data.get("port_last")
        if first and last and not 1024 <= first <= last <= 65535:
            self.add_error("port_last", _("The port range must lie within 1024 and 65535, first before last."))
        self._clean_cost(data)
        for name in CREDENTIALS:
            self._clean_pem(name, data)
        return data

    def _clean_cost(self, data: dict[str, Any]) -> None:
        amount, currency = data.get("monthly_cost_amount"), data.get("cost_currency")
        if amount is None:
            return
        if currency == "":
            self.add_error("cost_currency", _("An amount of money needs its currency."))
        elif currency and amount.scaleb(_decimals(currency)) % 1:
            self.add_error("monthly_cost_amount", _("This currency has no such small unit."))

    def _clean_pem(self, name: str, data: dict[str, Any]) -> None:
        """One text from either the field or the file; the file counts when both are there."""
        file: UploadedFile[bytes] | None = data.get(f"{name}_file")
        text = str(data.get(f"{name}_text") or "")
        if file:
            raw = file.read(PEM_LIMIT + 1)
            try:
                text = raw.decode("ascii")
            except UnicodeDecodeError:
                text = ""
            if len(raw) > PEM_LIMIT or "-----BEGIN" not in text:
                self.add_error(f"{name}_file", _("This is not a PEM file with BEGIN and END lines."))
        data[name] = text

    def all_values(self) -> dict[str, Any]:
        """Everything for a new server."""
        return {
            **{name: self.cleaned_data[name] for name in PLAIN if name in self.cleaned_data},
            **self._money(),
            **self._allowance(),
            **self._credentials(),
        }

    def changes(self) -> dict[str, Any]:
        """What the operator has changed, as the service wants it."""
        changed = set(self.changed_data)
        changes = {name: self.cleaned_data[name] for name in PLAIN if name in changed}
        if changed & {"monthly_cost_amount", "cost_currency"}:
            changes |= self._money()
        if "allowance_gb" in changed:
            changes |= self._allowance()
        return changes | self._credentials()

    def _money(self) -> dict[str, Any]:
        amount: Decimal | None = self.cleaned_data.get("monthly_cost_amount")
        currency = self.cleaned_data.get("cost_currency", "")
        return {"monthly_cost": None if amount is None else int(amount.scaleb(_decimals(currency)))}

    def _allowance(self) -> dict[str, Any]:
        amount: Decimal | None = self.cleaned_data.get("allowance_gb")
        return {"allowance_bytes": None if amount is None else int(amount * GIGABYTE)}

    def _credentials(self) -> dict[str, Any]:
        if self.cleaned_data.get("forget_credentials"):
            return dict.fromkeys(CREDENTIALS)
        return {name: text for name in CREDENTIALS if (text := self.cleaned_data.get(name))}


def _decimals(currency: str) -> int:
    return DECIMALS.get(currency, 2)
