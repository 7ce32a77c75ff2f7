"""Outside shops: what they may hand out, what is left for it, and their token."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.utils.cache import add_never_cache_headers
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminIntegerFieldWidget, UnfoldAdminSelectWidget

from billing import services
from billing.models import ChannelStock, SalesChannel, SoldSerial
from billing.services.channels import StockLevel
from derp_portal.lib.asking import Question, act, data_of
from fleet.admin.base import HistoryInline, actor, badge, change_url, link
from serials import services as serials
from serials.admin.forms import LastDayField
from serials.models import Plan, SerialBatch
from serials.services.numbers import MOST_AT_ONCE

from .forms import MoneyAdmin

OFFERED = 200
"""So many of the latest batches can be chosen from; each order makes one of its own, which cannot."""


class StockInline(HistoryInline):
    """The batches set aside for the shop."""

    model = ChannelStock
    fields = readonly_fields = ("show_batch", "show_note", "created_at")
    verbose_name_plural = gettext_lazy("stock")

    def get_queryset(self, request: HttpRequest) -> Any:
        """With batches and plans, in one query."""
        return super().get_queryset(request).select_related("batch__plan")

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for the shop."""
        seen_by = ("billing.view_saleschannel", "billing.change_saleschannel")
        return any(request.user.has_perm(name) for name in seen_by)

    @display(description=gettext_lazy("serial batch"))
    def show_batch(self, stock: ChannelStock) -> str:
        """With a link."""
        return link(change_url(stock.batch), stock.batch)

    @display(description=gettext_lazy("note"))
    def show_note(self, stock: ChannelStock) -> str:
        """Of the batch."""
        return stock.batch.note or "–"


class BatchForm(forms.Form):
    """Serials that are there already."""

    batch = forms.ModelChoiceField(
        SerialBatch.objects.none(),
        label=gettext_lazy("Serial batch"),
        help_text=gettext_lazy("Made by staff, of the shop's plans, of which nothing was sold or set aside."),
        widget=UnfoldAdminSelectWidget,
    )

    def __init__(self, data: Any, *, channel: SalesChannel) -> None:
        super().__init__(data)
        chosen = self.fields["batch"]
        assert isinstance(chosen, forms.ModelChoiceField)
        sold = SoldSerial.objects.filter(serial__batch=OuterRef("pk"))
        free = SerialBatch.objects.filter(
            ~Exists(sold), plan__in=channel.plans.all(), channel_stock=None, created_by__isnull=False
        )
        latest = list(free.order_by("-pk").values_list("pk", flat=True)[:OFFERED])
        chosen.queryset = SerialBatch.objects.filter(pk__in=latest).select_related("plan").order_by("-pk")
        chosen.label_from_instance = lambda batch: " · ".join(  # type: ignore[method-assign,assignment]
            filter(None, (str(batch), batch.note))
        )


class MakeForm(forms.Form):
    """Serials to make for the shop."""

    count = forms.IntegerField(
        label=gettext_lazy("How many"),
        min_value=1,
        max_value=MOST_AT_ONCE,
        initial=100,
        widget=UnfoldAdminIntegerFieldWidget,
    )
    plan = forms.ModelChoiceField(Plan.objects.none(), label=gettext_lazy("Plan"), widget=UnfoldAdminSelectWidget)
    activate_before = LastDayField(
        label=gettext_lazy("Last day to redeem"), required=False, help_text=gettext_lazy("Empty: no limit.")
    )

    def __init__(self, data: Any, *, channel: SalesChannel) -> None:
        super().__init__(data)
        chosen = self.fields["plan"]
        assert isinstance(chosen, forms.ModelChoiceField)
        chosen.queryset = channel.plans.all()


@admin.register(SalesChannel)
class SalesChannelAdmin(MoneyAdmin):
    """Shops outside the portal. One that ever sold cannot be deleted, only switched off."""

    list_display = ("name", "code", "show_state", "show_stock", "makes_serials", "token_prefix", "last_used_at")
    list_filter = ("is_enabled", "makes_serials", "plans")
    search_fields = ("code", "name", "note")
    autocomplete_fields = ("plans",)
    inlines = (StockInline,)
    actions_detail = ("new_token", "add_batch", "make_serials")
    _settings = (
        (None, {"fields": (("name", "code"), "is_enabled", "note")}),
        (
            gettext_lazy("What it hands out"),
            {"fields": ("plans", ("makes_serials", "low_stock"), "fee_basis_points")},
        ),
    )
    add_fieldsets = _settings
    fieldsets = (
        *_settings,
        (gettext_lazy("Now"), {"fields": (("show_levels", "show_token"), ("last_used_at", "created_at"))}),
    )
    readonly_fields = ("show_levels", "show_token", "last_used_at", "created_at")

    def get_fieldsets(self, request: HttpRequest, obj: SalesChannel | None = None) -> Any:
        """A shop that is not there yet has no stock."""
        return self.fieldsets if obj else self.add_fieldsets

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With what is left of each shop on the page, in a fixed number of queries."""
        found = super().get_changelist_instance(request)
        levels: dict[int, list[StockLevel]] = {}
        for level in services.stock_levels(list(found.result_list)):
            levels.setdefault(level.channel.pk, []).append(level)
        for channel in found.result_list:
            channel.levels = levels.get(channel.pk, [])
        return found

    def has_make_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Serials are money: to make some takes what making them elsewhere takes."""
        return self.has_act_permission(request) and request.user.has_perm("serials.change_serialbatch")

    @display(description=gettext_lazy("state"), ordering="is_enabled")
    def show_state(self, channel: SalesChannel) -> str:
        """Whether it may fetch anything."""
        if not channel.is_enabled:
            return badge(_("switched off"), "")
        return badge(_("enabled"), "success") if channel.token_prefix else badge(_("no token yet"), "warning")

    @display(description=gettext_lazy("left"))
    def show_stock(self, channel: Any) -> str:
        """Of all its plans, and whether one is short of."""
        left = sum(level.left for level in channel.levels)
        is_low = channel.is_enabled and not channel.makes_serials and any(level.is_low for level in channel.levels)
        return format_html("{} {}", left, badge(_("low"), "danger")) if is_low else str(left)

    @display(description=gettext_lazy("left to hand out"), empty_value="–")
    def show_levels(self, channel: SalesChannel) -> str | None:
        """By plan."""
        levels, low = services.stock_levels([channel]), _("low")
        return "\n".join(f"{level.plan}: {level.left}" + (f" · {low}" if level.is_low else "") for level in levels)

    @display(description=gettext_lazy("token"))
    def show_token(self, channel: SalesChannel) -> str:
        """How it begins; more is not kept."""
        return f"{channel.token_prefix}…" if channel.token_prefix else _("none yet")

    @action(description=gettext_lazy("New token"), url_path="token", icon="key", permissions=["act"])
    def new_token(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Shown once, and never again."""
        channel: SalesChannel = self.row_or_404(request, object_id)

        def do() -> HttpResponseBase:
            issued, secret = services.issue_channel_token(channel_id=channel.pk, actor=actor(request))
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": _("The new token of %(shop)s") % {"shop": issued.name},
                "secret": secret,
                "back": change_url(issued),
            }
            answer = TemplateResponse(request, "admin/billing/new_token.html", context)
            add_never_cache_headers(answer)
            return answer

        lines = [
            _("It opens fetching and taking back codes of this shop, and nothing else."),
            _("It is shown once, right after this. We keep nothing it could be read from."),
        ]
        if channel.token_prefix:
            lines.append(
                _("The token that the shop has now (%(prefix)s…) stops working at once.")
                % {"prefix": channel.token_prefix}
            )
        question = Question(
            title=_("Make a new token for %(shop)s?") % {"shop": channel.name},
            lines=lines,
            button=_("Make the token"),
            back=change_url(channel),
            is_dangerous=bool(channel.token_prefix),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Add a batch to the stock"), url_path="stock", icon="inventory", permissions=["act"]
    )
    def add_batch(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Set serials aside that are there already."""
        channel: SalesChannel = self.row_or_404(request, object_id)
        form = BatchForm(data_of(request), channel=channel)

        def do() -> str:
            stock = services.add_stock(channel_id=channel.pk, batch=form.cleaned_data["batch"], actor=actor(request))
            return _("Batch %(batch)s is set aside for %(shop)s.") % {"batch": stock.batch, "shop": channel.name}

        question = Question(
            title=_("Set a batch aside for %(shop)s") % {"shop": channel.name},
            lines=[
                _("What is unused of it is handed out by this shop, and the batch cannot be given to another one."),
                _("Codes of it that you have passed on by hand would be handed out a second time: choose a fresh one."),
            ],
            form=form,
            button=_("Set aside"),
            back=change_url(channel),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Make serials for the stock"), url_path="make", icon="add", permissions=["make"])
    def make_serials(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """A fresh batch, set aside at once."""
        channel: SalesChannel = self.row_or_404(request, object_id)
        form = MakeForm(data_of(request), channel=channel)

        def do() -> HttpResponseBase:
            who = actor(request)
            with transaction.atomic():
                batch = serials.generate(**form.cleaned_data, note=channel.name, actor=who)
                services.add_stock(channel_id=channel.pk, batch=batch, actor=who)
            made = ngettext(
                "%(count)d serial was made and set aside.", "%(count)d serials were made and set aside.", batch.count
            )
            messages.success(request, made % {"count": batch.count})
            return redirect(change_url(channel))

        question = Question(
            title=_("Make serials for %(shop)s") % {"shop": channel.name},
            lines=[_("They are made and set aside in one go; only this shop can hand them out.")],
            form=form,
            button=_("Make them"),
            back=change_url(channel),
        )
        return act(self, request, question, do)
