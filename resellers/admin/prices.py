"""Wholesale prices: rows of the shop, but only this room knows the levels that they are for."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import OuterRef, QuerySet, Subquery
from django.http import HttpRequest
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminSelectWidget

from billing.admin.forms import MoneyAdmin, MoneyModelForm
from billing.models import WholesalePrice
from derp_portal.lib import money
from fleet.admin.base import badge
from resellers.models import Level


def level_names() -> dict[str, str]:
    """Every level in the reader's language, by the code that prices know it by; "" is all of them together."""
    return {"": _("all"), **{level.code: str(level) for level in Level.objects.all()}}


class WholesalePriceForm(MoneyModelForm):
    """A wholesale price: one of each plan, level, currency and quantity is on sale at a time."""

    level = forms.ChoiceField(required=False, widget=UnfoldAdminSelectWidget)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        names = level_names()
        # One whose level is gone can still be taken off sale.
        names.setdefault(self.instance.level, self.instance.level)
        field = self.fields["level"]
        field.label = capfirst(_("level"))
        field.choices = list(names.items())  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """Say in words what the database would refuse, and what nobody would ever get."""
        data = super().clean()
        level = data.get("level")
        if data.get("is_active") and level and not Level.objects.filter(code=level).exists():
            self.add_error("level", _("There is no such level any more. Take the price off sale, or choose another."))
        if data.get("is_active") and data.get("plan"):
            same = {name: data.get(name) for name in ("plan", "level", "currency", "from_quantity")}
            others = WholesalePrice.objects.filter(**same, is_active=True).exclude(pk=self.instance.pk)
            if None not in same.values() and others.exists():
                self.add_error("from_quantity", _("There is a price for so many already. Take it off sale first."))
        return data


class LevelFilter(admin.SimpleListFilter):
    """By the level, as it is called."""

    title = gettext_lazy("level")
    parameter_name = "level"
    everybody = "-"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Levels, and what is for all of them."""
        return [(code or self.everybody, name) for code, name in level_names().items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[WholesalePrice]) -> QuerySet[WholesalePrice]:
        """The prices of that level alone."""
        chosen = self.value()
        return queryset if chosen is None else queryset.filter(level="" if chosen == self.everybody else chosen)


@admin.register(WholesalePrice)
class WholesalePriceAdmin(MoneyAdmin):
    """What resellers pay for each serial, by how many they buy at once."""

    form = WholesalePriceForm
    positive = ("amount",)
    list_display = ("plan", "show_level", "from_quantity", "show_amount", "currency", "is_active")
    list_filter = (("plan", RelatedDropdownFilter), LevelFilter, "currency", "is_active")
    list_select_related = ("plan",)
    search_fields = ("plan__code", "plan__name", "plan__name_zh")
    fields = (("plan", "level"), "from_quantity", ("currency", "amount"), "is_active")

    def get_queryset(self, request: HttpRequest) -> QuerySet[WholesalePrice]:
        """With the names of their levels."""
        queryset: QuerySet[WholesalePrice] = super().get_queryset(request)
        level = Level.objects.filter(code=OuterRef("level")).order_by()
        return queryset.annotate(
            level_name=Subquery(level.values("name")), level_name_zh=Subquery(level.values("name_zh"))
        )

    @display(description=gettext_lazy("level"), ordering="level")
    def show_level(self, price: Any) -> str:
        """Of resellers; in red where there is none of that code."""
        if not price.level:
            return _("all")
        if price.level_name is None:
            return badge(price.level, "danger")
        return str(Level(name=price.level_name, name_zh=price.level_name_zh))

    @display(description=gettext_lazy("price of each"), ordering="amount")
    def show_amount(self, price: WholesalePrice) -> str:
        """With its currency."""
        return money.for_people(price.amount, price.currency)
