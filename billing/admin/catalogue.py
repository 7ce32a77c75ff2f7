"""What is on sale: prices, traffic packs, coupons. Wholesale prices are where the levels of resellers are."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Count, Field, Q, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import display

from billing.models import BuyerTerms, Coupon, CouponUse, PackOffer, Price
from derp_portal.lib import money
from derp_portal.lib.clock import now
from fleet.admin.base import HistoryAdmin, HistoryInline, badge, change_url, link, size, when

from .forms import CodeField, GigabytesField, MoneyAdmin, MoneyModelForm


class PriceForm(MoneyModelForm):
    """A price, whose dates lie in order, and which is never nothing but for a trial."""

    def clean(self) -> dict[str, Any]:
        """What the rows' own rules cannot say beside a field."""
        data = super().clean()
        self.check_order(data, "valid_from", "valid_until")
        self.check_order(data, "sale_from", "sale_until")
        if data.get("sale_amount") == 0 and not data.get("is_trial"):
            self.add_error("sale_amount", _("Only a trial may cost nothing."))
        if data.get("sale_amount") is None and (data.get("sale_from") or data.get("sale_until")):
            self.add_error("sale_amount", _("A sale needs its price."))
        return data


@admin.register(Price)
class PriceAdmin(MoneyAdmin):
    """What plans cost. Orders keep a copy: changing or deleting a price changes none of them."""

    form = PriceForm
    list_display = (
        "plan",
        "show_amount",
        "show_sale",
        "currency",
        "show_state",
        "per_user_limit",
        "is_trial",
        "valid_from",
        "valid_until",
    )
    list_filter = (("plan", RelatedDropdownFilter), "currency", "is_active", "is_trial")
    list_select_related = ("plan",)
    search_fields = ("plan__code", "plan__name", "plan__name_zh")
    fieldsets = (
        (None, {"fields": (("plan", "currency"), "amount", "is_active")}),
        (
            gettext_lazy("Sale"),
            {"fields": ("sale_amount", "sale_from", "sale_until")},
        ),
        (gettext_lazy("Limits"), {"fields": (("per_user_limit", "is_trial"), "valid_from", "valid_until")}),
    )

    @display(description=gettext_lazy("price"), ordering="amount")
    def show_amount(self, price: Price) -> str:
        """With its currency."""
        return money.for_people(price.amount, price.currency)

    @display(description=gettext_lazy("sale price"), ordering="sale_amount", empty_value="–")
    def show_sale(self, price: Price) -> str | None:
        """The lower price, and whether it holds now."""
        if price.sale_amount is None:
            return None
        text = money.for_people(price.sale_amount, price.currency)
        return format_html("{} {}", text, badge(_("now"), "success")) if price.is_on_sale() else text

    @display(description=gettext_lazy("state"), ordering="is_active")
    def show_state(self, price: Price) -> str:
        """Whether anybody can buy at it at this moment. Of several the one that began last counts."""
        return _state(price.is_active, price.valid_from, price.valid_until)


@admin.register(BuyerTerms)
class BuyerTermsAdmin(HistoryAdmin):
    """What was agreed on with single buyers, as orders are priced and booked by it. It is set where resellers are."""

    list_display = ("user", "brought_by", "wholesale_level")
    list_select_related = ("user", "brought_by")
    search_fields = ("user__username", "user__email", "brought_by__username", "brought_by__email", "wholesale_level")
    ordering = ("-id",)


@admin.register(PackOffer)
class PackOfferAdmin(MoneyAdmin):
    """Traffic packs that can be bought. One that was ever ordered cannot be deleted, only taken off sale."""

    positive = ("amount",)
    list_display = ("name", "code", "show_bytes", "show_amount", "currency", "is_active", "position")
    list_filter = ("currency", "is_active")
    search_fields = ("code", "name", "name_zh")
    fields = (("name", "name_zh"), ("code", "position"), "extra_bytes", ("currency", "amount"), "is_active")

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        """Traffic in GB."""
        if db_field.name == "extra_bytes":
            label = capfirst(_("traffic"))
            return GigabytesField(label=label, help_text=_("In GB, such as 100."), required=True)
        return super().formfield_for_dbfield(db_field, request, **options)

    @display(description=gettext_lazy("traffic"), ordering="extra_bytes")
    def show_bytes(self, offer: PackOffer) -> str:
        """How much more."""
        return size(offer.extra_bytes)

    @display(description=gettext_lazy("price"), ordering="amount")
    def show_amount(self, offer: PackOffer) -> str:
        """With its currency."""
        return money.for_people(offer.amount, offer.currency)


class CouponForm(MoneyModelForm):
    """A coupon. What it takes off is either a percentage or an amount."""

    def clean(self) -> dict[str, Any]:
        """Say beside the field what is missing or too much."""
        data = super().clean()
        self.check_order(data, "valid_from", "valid_until")
        is_percent = data.get("kind") == Coupon.Kind.PERCENT
        wanted, other = ("percent", "amount") if is_percent else ("amount", "percent")
        if wanted in data and data[wanted] is None:
            self.add_error(wanted, _("Say how much it takes off."))
        if data.get(other) is not None:
            self.add_error(other, _("Leave this empty: the coupon takes off the other."))
        return data


class CouponUseInline(HistoryInline):
    """The orders it was used for."""

    model = CouponUse
    fields = readonly_fields = ("show_order", "user", "show_state", "created_at")
    verbose_name_plural = gettext_lazy("uses")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CouponUse]:
        """With what they name, in one query."""
        return super().get_queryset(request).select_related("order", "user")  # type: ignore[no-any-return]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever may look at the coupon."""
        return bool(request.user.has_perm("billing.view_coupon") or request.user.has_perm("billing.change_coupon"))

    @display(description=gettext_lazy("order"))
    def show_order(self, use: CouponUse) -> str:
        """With a link."""
        return link(change_url(use.order), use.order)

    @display(description=gettext_lazy("state"))
    def show_state(self, use: CouponUse) -> str:
        """Whether it counts."""
        return badge(_("given back"), "") if use.is_given_back else badge(_("counts"), "success")


@admin.register(Coupon)
class CouponAdmin(MoneyAdmin):
    """Codes that make orders cheaper. One that was ever used cannot be deleted, only switched off."""

    form = CouponForm
    positive = ("amount",)
    inlines = (CouponUseInline,)
    list_display = ("code", "show_off", "show_uses", "first_order_only", "show_state", "valid_until", "note")
    list_filter = ("is_active", "kind", "first_order_only", "plans", "valid_until")
    search_fields = ("code", "note")
    autocomplete_fields = ("plans",)
    fieldsets = (
        (None, {"fields": ("code", "is_active", "note")}),
        (gettext_lazy("What it takes off"), {"fields": ("kind", "percent", ("amount", "currency"))}),
        (
            gettext_lazy("Limits"),
            {
                "fields": (
                    "plans",
                    "first_order_only",
                    ("total_limit", "per_user_limit"),
                    "valid_from",
                    "valid_until",
                    "show_uses",
                )
            },
        ),
    )
    readonly_fields = ("show_uses",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Coupon]:
        """With the uses that count."""
        queryset: QuerySet[Coupon] = super().get_queryset(request)
        return queryset.annotate(used=Count("uses", filter=Q(uses__is_given_back=False)))

    def formfield_for_dbfield(self, db_field: Field[Any, Any], request: HttpRequest, **options: Any) -> Any:
        """The code in capitals, however it is typed."""
        if db_field.name == "code":
            return CodeField(
                label=capfirst(str(db_field.verbose_name)),
                max_length=40,
                validators=[*Coupon._meta.get_field("code").validators],
                help_text=_("What customers type; small and capital letters are the same."),
            )
        return super().formfield_for_dbfield(db_field, request, **options)

    @display(description=gettext_lazy("takes off"))
    def show_off(self, coupon: Coupon) -> str:
        """How much."""
        if coupon.kind == Coupon.Kind.PERCENT:
            return f"{coupon.percent} %"
        return money.for_people(coupon.amount or 0, coupon.currency)

    @display(description=gettext_lazy("used"), ordering="used")
    def show_uses(self, coupon: Any) -> str:
        """Of how many."""
        used = getattr(coupon, "used", 0)
        return f"{used} / {coupon.total_limit}" if coupon.total_limit is not None else str(used)

    @display(description=gettext_lazy("state"), ordering="is_active")
    def show_state(self, coupon: Any) -> str:
        """Whether it can be used at this moment."""
        if coupon.total_limit is not None and coupon.used >= coupon.total_limit:
            return badge(_("used up"), "warning")
        return _state(coupon.is_active, coupon.valid_from, coupon.valid_until)


def _state(is_active: bool, valid_from: Any, valid_until: Any) -> str:
    """In one word: valid, or why not."""
    if not is_active:
        return badge(_("switched off"), "")
    if valid_until and valid_until <= now():
        return badge(pgettext("coupon", "over"), "warning")
    if valid_from and valid_from > now():
        return badge(_("from %(moment)s") % {"moment": when(valid_from)}, "info")
    return badge(_("valid"), "success")
