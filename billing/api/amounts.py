"""How the API says amounts: a decimal text, the same in whole minor units, and the currency."""

from __future__ import annotations

from typing import Annotated, Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from ninja import Field
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from billing.models import CURRENCIES
from billing.models.catalogue import MOST_MINOR_UNITS
from billing.services.words import why_no_amount
from derp_portal.lib import money

CODES = [code for code, _name in CURRENCIES]


def _known_currency(code: str) -> str:
    if code.upper() not in CODES:
        raise ValueError(_("This must be one of: %(expected)s.") % {"expected": ", ".join(CODES)})
    return code.upper()


def _as_text(value: object) -> object:
    """19.9 and "19.90" are the same to whoever writes them; true and a list are not amounts."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


CurrencyCode = Annotated[str, AfterValidator(_known_currency), WithJsonSchema({"type": "string", "enum": CODES})]
"""A currency the shop takes."""

WrittenAmount = Annotated[
    str,
    BeforeValidator(_as_text),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, {"type": "number"}],
            "description": "A decimal number, as text or as a number.",
            "examples": ["19.90"],
        }
    ),
]
"""An amount as it is sent; `in_minor_units` reads it once the currency is known."""

Decimals = Annotated[str, Field(examples=["19.90"])]
"""An amount as it is answered. Its twin in minor units is called `…_minor`."""


def in_minor_units(written: str, currency: str, *, least: int = 0, field: str = "amount") -> int:
    """What was sent in that field. Raises ValidationError, in words."""
    try:
        amount = money.to_minor(written, currency)
    except ValueError as error:
        raise ValidationError({field: why_no_amount(written, currency)}) from error
    if not least <= amount <= MOST_MINOR_UNITS:
        raise ValidationError({field: why_no_amount(written, currency)})
    return amount


def both_ways(currency: str, **amounts: int) -> dict[str, Any]:
    """The currency, and each amount twice: `total="19.90"`, `total_minor=1990`."""
    answer: dict[str, Any] = {"currency": currency}
    for name, amount in amounts.items():
        answer |= {name: money.to_text(amount, currency), f"{name}_minor": amount}
    return answer
