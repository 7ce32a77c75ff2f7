"""What resellers type, and how they filter their lists."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from datetime import date
from typing import Any

import django_filters
from django import forms
from django.core.validators import URLValidator
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.models import Ticket
from accounts.tables import TicketFilter
from billing.forms import OrderForm
from billing.models import CURRENCIES, OrderLine, SoldSerial
from billing.models.catalogue import MOST_MINOR_UNITS
from billing.services.pricing import LEAST_TOP_UP, MOST_AT_ONCE, MOST_TOP_UP, Item
from billing.services.words import why_no_amount
from derp_portal.lib import money
from derp_portal.lib.errors import PortalError
from resellers.models import CommissionLine, Resale, Reseller
from resellers.selectors import STOCK_STATES, PriceRow, state_rule
from resellers.services import Sale, last_day_of_sale
from serials.codes import canonical

LABELS = dict(CURRENCIES)
LARGEST_FILE = 1024 * 1024
CODE_INPUT = {"class": "form-control-code", "autocapitalize": "none", "autocomplete": "off", "spellcheck": "false"}


class ApplyForm(forms.Form):
    """How somebody means to sell, and that they accept the terms."""

    application = forms.CharField(
        label=_("How do you mean to sell?"),
        max_length=4000,
        help_text=_("Where, to whom, roughly how much: a few sentences. A person reads them."),
        widget=forms.Textarea(attrs={"rows": 5}),
        error_messages={"required": _("Please say in a few words how you mean to sell.")},
    )
    code = forms.CharField(
        label=_("Your link"),
        max_length=32,
        required=False,
        help_text=_("3 to 32 small letters, digits and dashes. Left empty, we choose one; you can change it later."),
        widget=forms.TextInput(attrs=CODE_INPUT),
    )
    accepts_terms = forms.BooleanField(
        label=_("I have read the terms on this page and accept them."),
        error_messages={"required": _("Please accept the terms.")},
    )

    def refuse(self, error: PortalError) -> None:
        """Put the refusal beside the field that it speaks of."""
        fields = {"link_taken": "code", "link_invalid": "code", "terms_needed": "accepts_terms"}
        self.add_error(fields.get(error.code), str(error))


class LinkForm(forms.Form):
    """The code of the link and what its page says."""

    code = forms.CharField(
        label=_("Your link"),
        max_length=32,
        help_text=_("When you change it, the old address stops working, and so does the old QR code."),
        widget=forms.TextInput(attrs=CODE_INPUT),
    )
    landing_text = forms.CharField(
        label=_("Text on its page"),
        max_length=2000,
        required=False,
        help_text=_("Plain text in your own words: who you are, what you help with."),
        widget=forms.Textarea(attrs={"rows": 6}),
    )


class ContactForm(forms.Form):
    """What customers who redeemed serials of the stock are shown."""

    contact = forms.CharField(
        label=_("Contact"),
        max_length=200,
        required=False,
        help_text=_("Your name or shop, and how you are reached. Shown to those who redeemed your serial numbers."),
    )
    renewal_url = forms.URLField(
        label=_("Where they renew"),
        max_length=200,
        required=False,
        assume_scheme="https",
        validators=[URLValidator(schemes=["http", "https"])],
        help_text=_("The address of your shop, if you have one."),
    )


class PayoutForm(forms.Form):
    """Where commission is paid to."""

    payout_kind = forms.ChoiceField(label=_("Paid to"), choices=Reseller.PayoutKind.choices)
    payout_details = forms.CharField(
        label=_("Account"),
        max_length=500,
        help_text=_("Number or name of the account, its bank, its holder. It is stored encrypted."),
        widget=forms.Textarea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
        error_messages={"required": _("Say where the money is to go.")},
    )


# --- stock ------------------------------------------------------------------------------------------


class BuyForm(OrderForm):
    """Which plan, how many, and how they are paid."""

    BALANCE, ORDER = "balance", "order"

    coupon_code = None  # type: ignore[assignment]
    plan = forms.ChoiceField(label=_("Plan"))
    quantity = forms.IntegerField(
        label=_("How many"),
        min_value=1,
        max_value=MOST_AT_ONCE[OrderLine.Kind.WHOLESALE],
        error_messages={"required": _("Say how many."), "invalid": _("Write a whole number.")},
    )
    pay = forms.ChoiceField(
        label=_("Payment"),
        choices=[(BALANCE, _("from the balance, at once")), (ORDER, _("as any other order"))],
        widget=forms.RadioSelect,
    )

    def __init__(self, *args: Any, rows: Sequence[PriceRow], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.plans = {row.plan.code: row.plan for row in rows if row.tiers}
        self.fields["plan"].choices = [  # type: ignore[attr-defined]
            (code, plan.local_name) for code, plan in self.plans.items()
        ]

    def items(self) -> list[Item]:
        """See `OrderForm.items`."""
        plan, count = self.plans[self.cleaned_data["plan"]], self.cleaned_data["quantity"]
        return [Item(OrderLine.Kind.WHOLESALE, plan=plan, quantity=count)]

    @property
    def is_from_balance(self) -> bool:
        return bool(self.cleaned_data["pay"] == self.BALANCE)

    def refuse(self, error: PortalError) -> None:
        """Put the refusal beside the field that it speaks of."""
        fields = {
            "balance_too_small": "pay",
            "no_wholesale_price": "quantity",
            "invalid_quantity": "quantity",
            "not_on_sale": "plan",
        }
        self.add_error(fields.get(error.code), str(error))


class AmountInput(forms.TextInput):
    """For money as people type it."""

    def __init__(self) -> None:
        super().__init__(attrs={"inputmode": "decimal", "autocomplete": "off", "class": "form-control-short"})


def minor_units(form: forms.Form, field: str, currency: str, *, most: int = MOST_MINOR_UNITS) -> int | None:
    """What was typed there, in minor units of the currency; None once it stands beside the field what is wrong."""
    typed = str(form.cleaned_data.get(field) or "").replace("¥", "").replace("￥", "")
    try:
        amount = money.to_minor(typed, currency)
    except ValueError:
        form.add_error(field, why_no_amount(typed, currency, most=most))
        return None
    if amount < 0:
        form.add_error(field, _now("It cannot be below zero."))
        return None
    return amount


class TopUpForm(forms.Form):
    """How much is paid into the balance."""

    amount = forms.CharField(label=_("Amount"), max_length=20, widget=AmountInput())
    currency = forms.ChoiceField(label=_("Currency"))
    client_key = forms.CharField(max_length=40, required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, currencies: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["currency"].choices = [(code, LABELS[code]) for code in currencies]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """The amount in minor units, within what can be paid in."""
        cleaned = self.cleaned_data
        if "amount" in cleaned and "currency" in cleaned:
            amount = minor_units(self, "amount", cleaned["currency"], most=MOST_TOP_UP)
            if amount is not None and not LEAST_TOP_UP <= amount <= MOST_TOP_UP:
                least, most = (money.for_people(one, cleaned["currency"]) for one in (LEAST_TOP_UP, MOST_TOP_UP))
                text = _now("Between %(least)s and %(most)s can be paid in at once.")
                self.add_error("amount", text % {"least": least, "most": most})
            cleaned["minor"] = amount
        return cleaned

    @property
    def key(self) -> str:
        """Under which the order is known; apart from keys that come by the API."""
        said = str(self.data.get("client_key") or "")[:40]
        return f"page:{said}" if said else ""


class RecallForm(forms.Form):
    """The serials that were marked, carried from the question to the answer."""

    serial = forms.Field(widget=forms.MultipleHiddenInput)
    confirm = forms.CharField(widget=forms.HiddenInput, initial="yes")


class StockFilter(django_filters.FilterSet):
    """By part of the code or of the order's number, state, plan, and whether a sale is recorded."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    state = django_filters.ChoiceFilter(
        label=_("State"), choices=list(STOCK_STATES.items()), method="by_state", empty_label=_("All")
    )
    plan = django_filters.ChoiceFilter(label=_("Plan"), field_name="serial__plan__code", empty_label=_("All"))
    sale = django_filters.ChoiceFilter(
        label=_("Recorded sale"),
        choices=[("no", _("none")), ("yes", pgettext_lazy("sale", "recorded"))],
        method="by_sale",
        empty_label=_("All"),
    )
    order = django_filters.CharFilter(label=_("Order"), field_name="line__order__number", lookup_expr="iexact")

    class Meta:
        model = SoldSerial
        fields: tuple[str, ...] = ()

    def __init__(self, *args: Any, plans: Sequence[tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.filters["plan"].extra["choices"] = plans

    def by_search(self, queryset: QuerySet[SoldSerial], _name: str, value: str) -> QuerySet[SoldSerial]:
        """Serials with that piece of a code, of an order's number, or of whom it was sold to."""
        named = Q(line__order__number__icontains=value) | Q(resale__customer__icontains=value)
        code = canonical(value)
        return queryset.filter(named | Q(serial__code__contains=code) if code else named)

    def by_state(self, queryset: QuerySet[SoldSerial], _name: str, value: str) -> QuerySet[SoldSerial]:
        """See `state_rule`."""
        return queryset.filter(state_rule(value))

    def by_sale(self, queryset: QuerySet[SoldSerial], _name: str, value: str) -> QuerySet[SoldSerial]:
        """Whether the reseller has said that it is sold."""
        return queryset.filter(resale__isnull=value == "no")


# --- sales ------------------------------------------------------------------------------------------


class SaleForm(forms.Form):
    """One sale, by hand."""

    code = forms.CharField(
        label=_("Serial number"),
        max_length=200,
        widget=forms.TextInput(attrs={**CODE_INPUT, "autocapitalize": "characters"}),
    )
    price = forms.CharField(label=_("Sold for"), max_length=20, widget=AmountInput())
    currency = forms.ChoiceField(label=_("Currency"), choices=CURRENCIES)
    sold_on = forms.DateField(label=_("Sold on"), widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"))
    customer = forms.CharField(
        label=_("Customer"),
        max_length=120,
        required=False,
        help_text=_("Your own note of who bought it; besides you only the staff can see it."),
    )
    note = forms.CharField(label=_("Note"), max_length=200, required=False)

    def clean(self) -> dict[str, Any]:
        """The price in minor units."""
        cleaned = self.cleaned_data
        if "price" in cleaned and "currency" in cleaned:
            cleaned["minor"] = minor_units(self, "price", cleaned["currency"])
        return cleaned

    def clean_sold_on(self) -> date:
        """Not in the future, wherever the reseller is."""
        day: date = self.cleaned_data["sold_on"]
        if day > last_day_of_sale():
            raise forms.ValidationError(_("This day has not come yet."))
        return day

    def sale(self) -> Sale:
        """What a valid form says."""
        said = self.cleaned_data
        return Sale(said["code"], said["minor"], said["currency"], said["sold_on"], said["customer"], said["note"])


class ImportForm(forms.Form):
    """Many sales at once, as a file or pasted."""

    file = forms.FileField(
        label=_("CSV file"), required=False, widget=forms.FileInput(attrs={"accept": ".csv,text/csv,text/plain"})
    )
    text = forms.CharField(
        label=_("Or paste the lines here"),
        required=False,
        max_length=LARGEST_FILE,
        widget=forms.Textarea(attrs={"rows": 8, "spellcheck": "false", "class": "form-control-code"}),
    )
    currency = forms.ChoiceField(label=_("Currency"), choices=CURRENCIES)

    def clean(self) -> dict[str, Any]:
        """One of both; the file as text, whether a browser or a Chinese Excel wrote it."""
        cleaned = self.cleaned_data
        file = cleaned.get("file")
        if file and file.size > LARGEST_FILE:
            self.add_error("file", _now("The file is larger than 1 MB. Send it in parts."))
        elif file:
            cleaned["text"] = decoded(file.read())
        elif not cleaned.get("text", "").strip() and "text" not in self.errors:
            self.add_error("text", _now("Choose a file, or paste the lines."))
        return cleaned

    def line_about(self, error: PortalError) -> str:
        """The line that a refusal speaks of, as it was sent; "" when it names none."""
        lines = str(self.cleaned_data["text"]).splitlines()
        number = error.extra.get("line")
        return lines[number - 1][:200] if isinstance(number, int) and 0 < number <= len(lines) else ""


def decoded(raw: bytes) -> str:
    """A file's text. Chinese Excel writes GB 18030 where it is not told otherwise, and "Unicode text" in UTF-16."""
    marked = ("utf-16",) if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ()
    for encoding in (*marked, "utf-8-sig", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("utf-8", errors="replace")


class SaleFilter(django_filters.FilterSet):
    """By whom it was sold to, the code or the order, and by day."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    since = django_filters.DateFilter(
        label=_("From"),
        field_name="sold_on",
        lookup_expr="gte",
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
    )
    until = django_filters.DateFilter(
        label=_("To"),
        field_name="sold_on",
        lookup_expr="lte",
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
    )

    class Meta:
        model = Resale
        fields: tuple[str, ...] = ()

    def by_search(self, queryset: QuerySet[Resale], _name: str, value: str) -> QuerySet[Resale]:
        """Sales to that customer, of that piece of a code, or of an order's number."""
        named = Q(customer__icontains=value) | Q(sold__line__order__number__icontains=value)
        code = canonical(value)
        return queryset.filter(named | Q(sold__serial__code__contains=code) if code else named)


class CommissionFilter(django_filters.FilterSet):
    """By the order's number, by kind, and by the month it is settled with."""

    search = django_filters.CharFilter(label=_("Order number"), field_name="order__number", lookup_expr="icontains")
    kind = django_filters.ChoiceFilter(
        label=_("What"),
        empty_label=_("All"),
        choices=[(kind.value, kind.label) for kind in (CommissionLine.Kind.EARNED, CommissionLine.Kind.REVERSED)],
    )
    month = django_filters.ChoiceFilter(label=_("Settled with"), field_name="settle_month", empty_label=_("All"))

    class Meta:
        model = CommissionLine
        fields: tuple[str, ...] = ()

    def __init__(self, *args: Any, months: Sequence[date], **options: Any) -> None:
        super().__init__(*args, **options)
        self.filters["month"].extra["choices"] = [(one.isoformat(), f"{one:%Y-%m}") for one in months]


# --- tickets ----------------------------------------------------------------------------------------


class FirstLineFilter(TicketFilter):
    """By number or words of the subject, and by who has to do something."""

    TURNS = [
        ("mine", _("waits for you")),
        ("operator", _("waits for the operator")),
        ("answered", _("has an answer")),
        ("closed", _("is closed")),
    ]

    state = django_filters.ChoiceFilter(label=_("State"), choices=TURNS, method="by_turn", empty_label=_("All"))

    def by_turn(self, queryset: QuerySet[Ticket], _name: str, value: str) -> QuerySet[Ticket]:
        """Those of one queue."""
        queues = {
            "mine": Ticket.Queue.FIRST_LINE,
            "operator": Ticket.Queue.STAFF,
            "answered": Ticket.Queue.ANSWERED,
            "closed": Ticket.Queue.CLOSED,
        }
        return queryset.filter(queue=queues[value])
