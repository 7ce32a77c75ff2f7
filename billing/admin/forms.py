"""Fields in which staff write money, shares and traffic as people do; rows keep whole numbers."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import Field
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from billing.models.catalogue import MOST_MINOR_UNITS, AmountField
from billing.services.words import is_above
from derp_portal.lib import money
from derp_portal.lib.units import GIGABYTE
from fleet.admin.base import EditableAdmin

MAIN_CURRENCY = "CNY"


def minor_of(text: str, currency: str, *, least: int = 0, most: int = MOST_MINOR_UNITS) -> int:
    """Minor units of an amount as somebody typed it. Raises ValidationError, in words; nothing is ever rounded."""
    try:
        amount = money.to_minor(text, currency)
    except ValueError as error:
        if is_above(text, currency, most):
            raise ValidationError(_("At most %(most)s.") % {"most": money.for_people(most, currency)}) from error
        wrong = _("“%(text)s” is no amount of %(currency)s. Write plain digits with a point, such as %(example)s.")
        example = money.to_text(1990 if money.exponent(currency) else 500, currency)
        raise ValidationError(wrong % {"text": text, "currency": currency, "example": example}) from error
    if amount < least:
        raise ValidationError(_("At least %(least)s.") % {"least": money.for_people(least, currency)})
    if amount > most:
        raise ValidationError(_("At most %(most)s.") % {"most": money.for_people(most, currency)})
    return amount


class MoneyField(forms.CharField):
    """An amount such as 19.90: text until its form knows the currency (see `MoneyForm`), minor units after that."""

    widget = UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal", "autocomplete": "off"})

    def __init__(self, *, least: int = 0, most: int = MOST_MINOR_UNITS, **options: Any) -> None:
        self.least, self.most, self.currency = least, most, MAIN_CURRENCY
        super().__init__(max_length=40, **options)

    def prepare_value(self, value: Any) -> Any:
        """Minor units as a decimal number; what was typed stays as it is."""
        return money.to_text(value, self.currency) if isinstance(value, int) else value

    def has_changed(self, initial: Any, data: Any) -> bool:
        """19.9 and 19.90 are the same."""
        try:
            return bool(initial != money.to_minor(data, self.currency))
        except ValueError:
            return super().has_changed(initial, data)


def money_field(db_field: AmountField, *, least: int = 0) -> MoneyField:
    """How staff write an amount of a row, with whatever help the model gives for the number replaced."""
    return MoneyField(
        least=least,
        label=capfirst(str(db_field.verbose_name)),
        required=not db_field.blank,
        help_text=_("With its decimals, such as 19.90."),
    )


class MoneyForm(forms.BaseForm):
    """What a form with amounts does: it turns what was typed into minor units of its currency, once that is clean."""

    def money_fields(self) -> dict[str, MoneyField]:
        """By name."""
        return {name: field for name, field in self.fields.items() if isinstance(field, MoneyField)}

    def amounts_of(self, data: dict[str, Any], currency: str) -> None:
        """Replace the texts in `data` by minor units; what is no amount is said beside its field."""
        for name, field in self.money_fields().items():
            text = data.get(name)
            if name in self.errors or text is None:
                continue
            if not text:
                data[name] = None
                continue
            try:
                data[name] = minor_of(text, currency, least=field.least, most=field.most)
            except ValidationError as error:
                self.add_error(name, error)


class MoneyModelForm(MoneyForm, ModelForm[Any]):
    """A row with amounts in the currency that stands beside them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for field in self.money_fields().values():
            field.currency = getattr(self.instance, "currency", "") or MAIN_CURRENCY

    def clean(self) -> dict[str, Any]:
        """With amounts in minor units. Without a currency nobody can say what was meant."""
        data = super().clean() or {}
        self.amounts_of(data, data.get("currency") or MAIN_CURRENCY)
        return data

    def check_order(self, data: dict[str, Any], first: str, last: str) -> None:
        """Beside `last` when it does not lie after `first`."""
        if data.get(first) and data.get(last) and data[last] <= data[first]:
            self.add_error(last, _("The end must lie after the beginning."))


class PercentField(forms.DecimalField):
    """A share such as 0.6 %, kept in hundredths of a percent."""

    widget = UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal"})

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=0, max_value=100, max_digits=5, decimal_places=2, **options)

    def prepare_value(self, value: Any) -> Any:
        """Hundredths of a percent as a percentage."""
        return _plain(Decimal(value) / 100) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        """In hundredths of a percent."""
        share = super().clean(value)
        return None if share is None else int(share * 100)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """0.6 and 0.60 are the same."""
        return _differs(initial, data, 100)


class GigabytesField(forms.DecimalField):
    """Traffic as it is sold, in GB; kept in bytes."""

    widget = UnfoldAdminTextInputWidget(attrs={"inputmode": "decimal"})

    def __init__(self, **options: Any) -> None:
        super().__init__(min_value=Decimal("0.001"), max_value=1_000_000, decimal_places=9, **options)

    def prepare_value(self, value: Any) -> Any:
        """Bytes as GB."""
        return _plain(Decimal(value) / GIGABYTE) if isinstance(value, int) else value

    def clean(self, value: Any) -> int | None:
        """In bytes."""
        amount = super().clean(value)
        return None if amount is None else int(amount * GIGABYTE)

    def has_changed(self, initial: Any, data: Any) -> bool:
        """100 and 100.0 are the same."""
        return _differs(initial, data, GIGABYTE)


class CodeField(forms.CharField):
    """A code that is kept in capitals, typed as one likes."""

    widget = UnfoldAdminTextInputWidget(attrs={"autocomplete": "off", "spellcheck": "false"})

    def to_python(self, value: Any) -> Any:
        """In capitals, before anything judges it."""
        text = super().to_python(value)
        return text.upper() if isinstance(text, str) else text


def _plain(number: Decimal) -> str:
    return f"{number:f}".rstrip("0").rstrip(".") if "." in f"{number:f}" else f"{number:f}"


def _differs(initial: Any, data: Any, unit: int) -> bool:
    try:
        return bool(initial != Decimal(str(data)) * unit)
    except InvalidOperation:
        return bool(data or initial is not None)


class MoneyAdmin(EditableAdmin):
    """Rows with amounts: typed and read as decimals, with whatever help the model gives for the number replaced."""

    form = MoneyModelForm
    positive: tuple[str, ...] = ()
    """Amounts that must be more than nothing."""

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        """Amounts, shares and traffic in the units people use."""
        if isinstance(db_field, AmountField):
            return money_field(db_field, least=1 if db_field.name in self.positive else 0)
        if db_field.name == "fee_basis_points":
            label = capfirst(str(db_field.verbose_name))
            return PercentField(initial=0, label=label, help_text=_("In percent, such as 0.6."))
        return super().formfield_for_dbfield(db_field, request, **options)


# --- what questions ask for ---------------------------------------------------------------------------


class QuestionForm(MoneyForm, forms.Form):
    """A question about money of one currency."""

    def __init__(self, data: Any, *, currency: str = MAIN_CURRENCY, **options: Any) -> None:
        super().__init__(data, **options)
        self.currency = currency
        for field in self.money_fields().values():
            field.currency = currency

    def clean(self) -> dict[str, Any]:
        """With amounts in minor units."""
        data = super().clean() or {}
        self.amounts_of(data, self.currency)
        return data


class ReasonForm(QuestionForm):
    """Why something is done; it stays in the history."""

    reason = forms.CharField(
        label=gettext_lazy("Why"),
        max_length=150,
        help_text=gettext_lazy("It stays in the history."),
        widget=UnfoldAdminTextInputWidget,
    )

    def __init__(self, data: Any, *, is_needed: bool = True, **options: Any) -> None:
        super().__init__(data, **options)
        self.fields["reason"].required = is_needed


def evidence_area() -> UnfoldAdminTextareaWidget:
    """Room for a few lines."""
    return UnfoldAdminTextareaWidget(attrs={"rows": 3})
