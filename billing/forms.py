"""What customers type when they buy, and how they filter their orders."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import django_filters
from django import forms
from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _

from billing.models import CURRENCIES, Order, OrderLine, PackOffer
from billing.selectors import GIFT, WHOLESALE, Offer, Way, lookup_orders
from billing.services.pricing import Item
from derp_portal.lib.errors import PortalError
from derp_portal.lib.texts import can_be_kept
from serials.models import Lease

Kind = OrderLine.Kind

FIELD_OF = {
    "invalid_quantity": "quantity",
    "no_wholesale_price": "quantity",
    "per_user_limit": "quantity",
    "lease_not_found": "way",
    "no_limit": "way",
    "not_a_reseller": "way",
    "trial_is_for_oneself": "way",
}
"""Beside which field a refusal stands; those of coupons stand beside the coupon, others above the button."""

CHOICE_ERRORS = {
    "required": _("Choose what it is for."),
    "invalid_choice": _("This choice is not open any more. Please choose again."),
}


class OrderForm(forms.Form):
    """What every order says: a coupon, the total that was shown, and a key, so that a double click orders once."""

    coupon_code = forms.CharField(label=_("Coupon"), max_length=40, required=False)
    client_key = forms.CharField(max_length=40, required=False)
    total = forms.IntegerField(required=False)

    @staticmethod
    def new_key() -> str:
        """A key for a page that has not been sent yet."""
        return secrets.token_urlsafe(16)

    @property
    def key(self) -> str:
        """Under which the order is known; apart from keys that come by the API."""
        said = str(self.data.get("client_key") or "")[:40]
        # It is looked up before the form is validated.
        return f"page:{said}" if said and can_be_kept(said) else ""

    def items(self) -> list[Item]:
        """What a valid form asks for."""
        raise NotImplementedError

    def wish(self) -> dict[str, Any]:
        """What a valid form asks for, as `quote` and `place_order` take it."""
        chosen = self.cleaned_data
        return {
            "items": self.items(),
            "coupon_code": chosen["coupon_code"],
            "currency": chosen["currency"],
        }

    def has_shown(self, total: int) -> bool:
        """Whether the page said that it costs so much."""
        return bool(self.cleaned_data["total"] == total)

    def refuse(self, error: PortalError) -> None:
        """Put the refusal beside the field that it speaks of."""
        field = "coupon_code" if error.code.startswith("coupon_") else FIELD_OF.get(error.code)
        self.add_error(field if field in self.fields else None, str(error))


class PlanForm(OrderForm):
    """What for, how many, in which currency."""

    way = forms.ChoiceField(error_messages=CHOICE_ERRORS)
    quantity = forms.IntegerField(
        label=_("How many"),
        min_value=1,
        error_messages={"required": _("Say how many."), "invalid": _("Write a whole number.")},
    )
    currency = forms.ChoiceField(label=_("Currency"))

    def __init__(self, *args: Any, offer: Offer, ways: Sequence[Way], currencies: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.offer = offer
        self.ways = {way.key: way for way in ways}
        labels = dict(CURRENCIES)
        self.fields["way"].choices = [(key, key) for key in self.ways]  # type: ignore[attr-defined]
        self.fields["currency"].choices = [(code, labels[code]) for code in currencies]  # type: ignore[attr-defined]

    @property
    def chosen(self) -> str:
        """The key of the way that is marked."""
        value = str(self["way"].value())
        return value if value in self.ways else next(iter(self.ways), "")

    @property
    def effects(self) -> list[Way]:
        """The ways that redeem at once."""
        return [way for way in self.ways.values() if way.effect]

    def items(self) -> list[Item]:
        """See `OrderForm.items`."""
        way, count, plan = self.ways[self.cleaned_data["way"]], self.cleaned_data["quantity"], self.offer.plan
        if way.key == GIFT:
            return [Item(Kind.GIFT, plan=plan, quantity=count)]
        if way.key == WHOLESALE:
            return [Item(Kind.WHOLESALE, plan=plan, quantity=count)]
        if way.lease_id is None:
            return [Item(Kind.SELF, plan=plan, quantity=count, is_new_lease=len(self.effects) > 1)]
        # A trial renews nothing: it is for oneself, wherever its days go.
        is_trial = self.offer.price is not None and self.offer.price.is_trial
        return [Item(Kind.SELF if is_trial else Kind.RENEWAL, plan=plan, quantity=count, lease_id=way.lease_id)]


class PackForm(OrderForm):
    """For which lease the traffic is."""

    way = forms.ChoiceField(error_messages=CHOICE_ERRORS)
    currency = forms.CharField(required=False)

    def __init__(self, *args: Any, pack: PackOffer, leases: Sequence[Lease], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.pack = pack
        self.leases = {str(lease.pk): lease for lease in leases}
        self.fields["way"].choices = [(key, key) for key in self.leases]  # type: ignore[attr-defined]

    @property
    def chosen(self) -> str:
        """The key of the lease that is marked."""
        value = str(self["way"].value())
        return value if value in self.leases else next(iter(self.leases), "")

    def clean_currency(self) -> str:
        """The pack's own: it is sold in one."""
        return self.pack.currency

    def items(self) -> list[Item]:
        """See `OrderForm.items`."""
        return [Item(Kind.PACK, pack=self.pack, lease_id=int(self.cleaned_data["way"]))]


class OrderFilter(django_filters.FilterSet):
    """A customer's own, by number, plan or reference, and by state."""

    search = django_filters.CharFilter(label=_("Search"), method="by_search")
    state = django_filters.ChoiceFilter(label=_("State"), choices=Order.State.choices, empty_label=_("All"))

    class Meta:
        model = Order
        fields = ("search", "state")

    def by_search(self, queryset: QuerySet[Order], _name: str, value: str) -> QuerySet[Order]:
        """Orders with that piece of a number, of a plan's name or of a payment's reference."""
        return lookup_orders(queryset, value, is_of_one=True)
