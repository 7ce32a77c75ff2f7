"""Levels of resellers, and what each of them earns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.db.models import Field, QuerySet
from django.forms import BaseInlineFormSet, ModelForm
from django.forms.formsets import DELETION_FIELD_NAME
from django.http import HttpRequest
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.admin import StackedInline
from unfold.decorators import display

from accounts.services import record
from billing.admin.forms import MoneyAdmin, MoneyModelForm, PercentField, money_field
from billing.models.catalogue import AmountField
from derp_portal.lib.clock import now
from fleet.admin.base import actor
from resellers.models import Level, PayoutMinimum, Rate

from .words import percent


class LevelRowForm(MoneyModelForm):
    """A level; one of them is for new resellers."""

    def clean(self) -> dict[str, Any]:
        """Say in words what the database would refuse."""
        data = super().clean()
        other = Level.objects.filter(is_default=True).exclude(pk=self.instance.pk).first()
        if data.get("is_default") and other:
            wrong = _("“%(level)s” is the level for new resellers. Take that from it first.")
            self.add_error("is_default", wrong % {"level": other})
        return data


class RateForm(MoneyModelForm):
    """A rate, whose dates lie in order. What sales were made under stays: they may be decided later."""

    def clean(self) -> dict[str, Any]:
        """Say beside the field what would change what was earned before this moment."""
        data, moment = super().clean(), now()
        stored = self.instance
        if stored.pk and (stored.valid_from is None or stored.valid_from <= moment):
            self._keep_what_has_counted(data, moment)
        elif stored.level_id and (data.get("valid_from") is None or data["valid_from"] < moment):
            data["valid_from"] = moment
        self.check_order(data, "valid_from", "valid_until")
        return data

    def _keep_what_has_counted(self, data: dict[str, Any], moment: datetime) -> None:
        for name in {"plan", "basis_points", "valid_from"}.intersection(self.changed_data):
            self.add_error(
                name, _("This rate has counted for sales: it stays as it is. Give it an end, and add another.")
            )
        # The page shows whole seconds: the beginning stays as exactly as it is stored.
        data["valid_from"] = self.instance.valid_from
        if "valid_until" in self.changed_data:
            if self.instance.valid_until is not None and self.instance.valid_until <= moment:
                self.add_error("valid_until", _("This rate is over: its end stays. Add another."))
            elif data.get("valid_until") is not None and data["valid_until"] < moment:
                self.add_error("valid_until", _("Sales have been made since then: the end must not be past."))
        else:
            data["valid_until"] = self.instance.valid_until
        # Taken out of the data, or the row would be deleted whatever is wrong with it.
        if data.pop(DELETION_FIELD_NAME, False):
            wrong = _("This rate has counted for sales and cannot be deleted. Give it an end instead.")
            self.add_error("valid_until", wrong)


class PayoutMinimumForm(MoneyModelForm):
    """A smallest payout; one for each currency."""

    def clean(self) -> dict[str, Any]:
        """Say beside the field what the database would refuse: somebody else may have added it since."""
        data = super().clean()
        same = PayoutMinimum.objects.filter(level=self.instance.level_id, currency=data.get("currency"))
        if self.instance.level_id and same.exclude(pk=self.instance.pk).exists():
            self.add_error("currency", _("There is a smallest payout of this currency already."))
        return data


class LevelInline(StackedInline):
    """What belongs to a level: whoever may change levels may change it."""

    extra = 0

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for the level."""
        return bool(request.user.has_perm("resellers.view_level")) or self._may_change(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for changing the level."""
        return self._may_change(request) or bool(request.user.has_perm("resellers.add_level"))

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for the level."""
        return self._may_change(request)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for changing the level."""
        return self._may_change(request)

    def _may_change(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("resellers.change_level"))


class RateInline(LevelInline):
    """What the level earns, typed in percent."""

    model = Rate
    form = RateForm
    fields = (("plan", "basis_points"), "valid_from", "valid_until")
    verbose_name_plural = gettext_lazy("rates: of several that hold, the one that began last counts")

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        """The rate in percent; what an empty beginning means."""
        if db_field.name == "basis_points":
            return PercentField(label=capfirst(str(db_field.verbose_name)), help_text=_("In percent, such as 12.5."))
        if db_field.name == "valid_from":
            options["help_text"] = _("Empty or past: from now on. Of a level that is just being made: since ever.")
        return super().formfield_for_dbfield(db_field, request, **options)


class PayoutMinimumInline(LevelInline):
    """The least that is paid out, by currency."""

    model = PayoutMinimum
    form = PayoutMinimumForm
    fields = (("currency", "amount"),)
    verbose_name_plural = gettext_lazy("smallest payouts: without one of its currency, any amount is paid")

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        """The amount as people write it."""
        if isinstance(db_field, AmountField):
            return money_field(db_field)
        return super().formfield_for_dbfield(db_field, request, **options)


@admin.register(Level)
class LevelAdmin(MoneyAdmin):
    """Levels. What was earned keeps the rates of its day; a level that somebody is at cannot be deleted."""

    form = LevelRowForm
    inlines = (RateInline, PayoutMinimumInline)
    list_display = (
        "show_name",
        "code",
        "show_rate",
        "first_order_only",
        "hold_days",
        "show_minimum",
        "is_default",
    )
    list_filter = ("first_order_only", "is_default")
    search_fields = ("code", "name", "name_zh")
    fieldsets = (
        (None, {"fields": (("name", "name_zh"), ("code", "is_default"))}),
        (gettext_lazy("Referrals"), {"fields": ("first_order_only", ("cookie_days", "hold_days"))}),
        (gettext_lazy("Wholesale"), {"fields": ("recall_days",)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Level]:
        """With rates and smallest payouts, in a fixed number of queries."""
        queryset: QuerySet[Level] = super().get_queryset(request)
        return queryset.prefetch_related("rates", "payout_minimums")

    def get_readonly_fields(self, request: HttpRequest, obj: Level | None = None) -> tuple[str, ...]:
        """Wholesale prices name a level by its code: it stays as it was given."""
        return ("code",) if obj else ()

    def save_formset(
        self, request: HttpRequest, form: ModelForm[Any], formset: BaseInlineFormSet[Any, Any, Any], change: bool
    ) -> None:
        """Save, and write down who set what: it is money."""
        super().save_formset(request, form, formset, change)
        changes = [
            *(("added", row) for row in formset.new_objects),
            *(("changed", row) for row, _fields in formset.changed_objects),
            *(("deleted", row) for row in formset.deleted_objects),
        ]
        for verb, row in changes:
            kind, said = _what_it_says(row)
            record(actor=actor(request), event=f"{kind}.{verb}", target=form.instance, **said)

    @display(description=gettext_lazy("name"), ordering="name")
    def show_name(self, level: Level) -> str:
        """In the reader's language."""
        return str(level)

    @display(description=gettext_lazy("rate of every plan"))
    def show_rate(self, level: Level) -> str:
        """The one that counts now for a plan without one of its own, and how many others there are."""
        rates, moment = list(level.rates.all()), now()
        holding = [
            rate
            for rate in rates
            if rate.plan_id is None
            and (rate.valid_from is None or rate.valid_from <= moment)
            and (rate.valid_until is None or rate.valid_until > moment)
        ]
        latest = max(
            holding, key=lambda rate: (rate.valid_from is not None, rate.valid_from or moment, rate.pk), default=None
        )
        text = percent(latest.basis_points) if latest else "–"
        others = len(rates) - (latest is not None)
        return f"{text} (+{others})" if others else text

    @display(description=gettext_lazy("smallest payout"))
    def show_minimum(self, level: Level) -> str:
        """In each currency that has one."""
        return level.smallest_payouts or "–"


def _what_it_says(row: Rate | PayoutMinimum) -> tuple[str, dict[str, Any]]:
    """For the audit trail: what kind of row it is, and what stands in it."""
    if isinstance(row, PayoutMinimum):
        return "payout_minimum", {"currency": row.currency, "amount": row.amount}
    return "rate", {
        "plan": row.plan.code if row.plan else "",
        "basis_points": row.basis_points,
        "valid_from": row.valid_from,
        "valid_until": row.valid_until,
    }
