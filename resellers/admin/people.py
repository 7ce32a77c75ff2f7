"""The desk of resellers: who applies, who is one, at which level; and what their links brought."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import BooleanField, QuerySet, Value
from django.http import HttpRequest, HttpResponseBase
from django.utils.html import format_html_join
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RelatedDropdownFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from billing.admin.forms import ReasonForm
from billing.admin.words import amount
from billing.models import CURRENCIES, Order, OrderLine
from billing.services import balance_of
from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.wording import enumeration
from fleet.admin.base import HistoryAdmin, HistoryInline, actor, badge, change_url, link, list_url
from resellers import services
from resellers.models import (
    Attribution,
    CommissionLine,
    LevelPeriod,
    LinkDay,
    Reseller,
    Settlement,
    Signup,
)

from .forms import LevelForm
from .words import payout_of

State = Reseller.State
STATE_COLOURS: dict[str, str] = {
    State.APPLIED: "info",
    State.ACTIVE: "success",
    State.REJECTED: "",
    State.SUSPENDED: "danger",
}
VERDICT_COLOURS: dict[str, str] = {
    Signup.Verdict.ATTRIBUTED: "success",
    Signup.Verdict.INVALID: "danger",
    Signup.Verdict.EXPIRED: "warning",
    Signup.Verdict.INACTIVE: "warning",
    Signup.Verdict.OWN: "danger",
}
PAYS = "resellers.change_settlement"
"""Who may pay settlements may read where to."""
OFFERED = {
    "approve": (State.APPLIED, State.REJECTED, State.SUSPENDED),
    "reject": (State.APPLIED,),
    "suspend": (State.ACTIVE,),
    "change_level": (State.ACTIVE, State.SUSPENDED),
}


class LevelPeriodInline(HistoryInline):
    """Which levels they had from when on."""

    model = LevelPeriod
    fields = readonly_fields = ("level", "since", "actor")
    verbose_name_plural = gettext_lazy("levels")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LevelPeriod]:
        """With what they name, in one query."""
        return super().get_queryset(request).select_related("level", "actor")  # type: ignore[no-any-return]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for the reseller."""
        return any(request.user.has_perm(f"resellers.{name}_reseller") for name in ("view", "change"))


@admin.register(Reseller)
class ResellerAdmin(HistoryAdmin):
    """Resellers, from their application on. Their settings are their own; staff decide about them here."""

    list_display = ("user", "code", "show_state", "level", "show_application", "created_at", "decided_at")
    list_filter = ("state", ("level", RelatedDropdownFilter), "created_at")
    list_select_related = ("user", "level")
    search_fields = ("code", "user__username", "user__email")
    search_help_text = gettext_lazy("Link code, user name or e-mail")
    ordering = ("-id",)
    actions_detail = ("approve", "reject", "suspend", "change_level")
    inlines = (LevelPeriodInline,)
    fieldsets = (
        (
            gettext_lazy("State"),
            {"fields": (("show_user", "show_state", "level"), ("decided_at", "decided_by"), "decision_reason")},
        ),
        (
            gettext_lazy("Application"),
            {"fields": ("application", ("created_at", "terms_version", "terms_accepted_at"))},
        ),
        (gettext_lazy("What others see"), {"fields": ("show_link", ("contact", "renewal_url"), "landing_text")}),
        (gettext_lazy("Money"), {"fields": ("show_payout", "show_balance", "show_more")}),
    )
    readonly_fields = ("show_user", "show_state", "show_link", "show_payout", "show_balance", "show_more")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Reseller]:
        """Without bank details, and with whether this reader may read them."""
        queryset: QuerySet[Reseller] = super().get_queryset(request)
        queryset = queryset.select_related("user", "level", "decided_by").defer("payout_details")
        return queryset.annotate(may_read=Value(request.user.has_perm(PAYS), BooleanField()))

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only what makes sense for the reseller as they are."""
        reseller = Reseller.objects.filter(pk=object_id).first()
        if reseller is None:
            return []
        fits = {f"resellers_reseller_{name}": reseller.state in states for name, states in OFFERED.items()}
        return [one for one in super().get_actions_detail(request, object_id) if fits.get(one.action_name, True)]

    @display(description=gettext_lazy("user"))
    def show_user(self, reseller: Reseller) -> str:
        """With a link."""
        return link(change_url(reseller.user), reseller.user)

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, reseller: Reseller) -> str:
        """The state, coloured."""
        return badge(reseller.get_state_display(), STATE_COLOURS[reseller.state])

    @display(description=gettext_lazy("application"))
    def show_application(self, reseller: Reseller) -> str:
        """How it begins."""
        text = " ".join(reseller.application.split())
        return f"{text[:60]}…" if len(text) > 60 else text or "–"

    @display(description=gettext_lazy("link"))
    def show_link(self, reseller: Reseller) -> str:
        """Where it leads in."""
        return f"/r/{reseller.code}"

    @display(description=gettext_lazy("payout"))
    def show_payout(self, reseller: Any) -> str:
        """Where to pay, for those who pay."""
        return payout_of(reseller, may_read=reseller.may_read)

    @display(description=gettext_lazy("prepaid balance"))
    def show_balance(self, reseller: Reseller) -> str:
        """In each currency that there is any of."""
        balances = {code: balance_of(reseller.user, code) for code, _name in CURRENCIES}
        return enumeration(amount(left, code) for code, left in balances.items() if left) or "–"

    @display(description=gettext_lazy("more"))
    def show_more(self, reseller: Reseller) -> str:
        """Where the rest of it is."""
        own = {"reseller__id__exact": reseller.pk}
        wholesale = Order.objects.filter(user=reseller.user_id, lines__kind=OrderLine.Kind.WHOLESALE)
        ways = [
            (list_url(Attribution, **own), _("Customers")),
            (list_url(CommissionLine, **own), _("Commissions")),
            (list_url(Settlement, **own), _("Settlements")),
            (list_url(LinkDay, **own), _("Clicks")),
        ]
        if wholesale.exists():
            ways.append((list_url(Order, q=reseller.user.username), _("Orders")))
        return format_html_join(" · ", "{}", ((link(address, words),) for address, words in ways))

    @action(
        description=gettext_lazy("Approve"),
        url_path="approve",
        icon="how_to_reg",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def approve(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Make them an active reseller, at a level."""
        reseller: Reseller = self.row_or_404(request, object_id)
        form = LevelForm(data_of(request), initial={"level": reseller.level_id})

        def do() -> str:
            level = form.cleaned_data["level"]
            is_other = level.pk != reseller.level_id
            services.approve(reseller_id=reseller.pk, level=level if is_other else None, actor=actor(request))
            return _("%(user)s is a reseller now.") % {"user": reseller}

        question = Question(
            title=_("Make %(user)s a reseller?") % {"user": reseller},
            lines=[
                *([reseller.application] if reseller.application else []),
                _("Their link /r/%(code)s begins to count, and they can buy wholesale.") % {"code": reseller.code},
                _("They are told by e-mail."),
            ],
            form=form,
            button=_("Approve"),
            back=change_url(reseller),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Reject"),
        url_path="reject",
        icon="person_off",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def reject(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Turn the application down."""
        reseller: Reseller = self.row_or_404(request, object_id)
        form = ReasonForm(data_of(request))

        def do() -> str:
            services.reject(reseller_id=reseller.pk, reason=form.cleaned_data["reason"], actor=actor(request))
            return _("The application of %(user)s is rejected.") % {"user": reseller}

        question = Question(
            title=_("Reject the application of %(user)s?") % {"user": reseller},
            lines=[_("They are told by e-mail, with what you write here, and may apply again.")],
            form=form,
            button=_("Reject"),
            back=change_url(reseller),
            is_dangerous=True,
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Suspend"),
        url_path="suspend",
        icon="block",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def suspend(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Stop them for the time being."""
        reseller: Reseller = self.row_or_404(request, object_id)
        form = ReasonForm(data_of(request))

        def do() -> str:
            services.suspend(reseller_id=reseller.pk, reason=form.cleaned_data["reason"], actor=actor(request))
            return _("%(user)s is suspended.") % {"user": reseller}

        question = Question(
            title=_("Suspend %(user)s?") % {"user": reseller},
            lines=[
                _("Their link brings nobody any more, orders of their customers earn nothing, and they cannot buy."),
                _("What they have earned stays theirs and is settled. Serials they have sold stay good."),
                _("“Approve” makes them active again."),
            ],
            form=form,
            button=_("Suspend"),
            back=change_url(reseller),
            is_dangerous=True,
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Change level"), url_path="level", icon="stairs", permissions=["act"])
    def change_level(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """From now on they earn and buy at another one."""
        reseller: Reseller = self.row_or_404(request, object_id)
        form = LevelForm(data_of(request), initial={"level": reseller.level_id})

        def do() -> str:
            level = form.cleaned_data["level"]
            services.set_level(reseller_id=reseller.pk, level=level, actor=actor(request))
            return _("%(user)s is at level %(level)s.") % {"user": reseller, "level": level}

        question = Question(
            title=_("Change the level of %(user)s") % {"user": reseller},
            lines=[
                _("Now at %(level)s. What was sold until this moment earns as it did.") % {"level": reseller.level},
                _("Wholesale prices are those of the new level at once."),
            ],
            form=form,
            button=_("Change"),
            back=change_url(reseller),
        )
        return act(self, request, question, do)


@admin.register(LinkDay)
class LinkDayAdmin(HistoryAdmin):
    """How often links were opened, by day."""

    list_display = ("day", "reseller", "clicks")
    list_filter = (("reseller", AutocompleteSelectFilter), "day")
    list_select_related = ("reseller__user",)
    search_fields = ("reseller__code", "reseller__user__username")
    ordering = ("-day", "-id")
    fields = (("day", "reseller", "clicks"),)


@admin.register(Signup)
class SignupAdmin(HistoryAdmin):
    """What became of those who signed up after they had opened a link."""

    list_display = ("created_at", "show_user", "show_reseller", "show_verdict", "clicked_at")
    list_filter = ("verdict", ("reseller", AutocompleteSelectFilter), "created_at")
    list_select_related = ("user", "reseller__user")
    search_fields = ("user__username", "user__email", "reseller__code", "reseller__user__username")
    ordering = ("-id",)
    fields = (("show_user", "show_reseller", "show_verdict"), ("clicked_at", "created_at"))
    readonly_fields = ("show_user", "show_reseller", "show_verdict")

    @display(description=gettext_lazy("user"))
    def show_user(self, signup: Signup) -> str:
        """With a link."""
        return link(change_url(signup.user), signup.user)

    @display(description=gettext_lazy("reseller"), empty_value="–")
    def show_reseller(self, signup: Signup) -> str | None:
        """With a link."""
        return link(change_url(signup.reseller), signup.reseller) if signup.reseller else None

    @display(description=gettext_lazy("verdict"), ordering="verdict")
    def show_verdict(self, signup: Signup) -> str:
        """What it meant, coloured."""
        return badge(signup.get_verdict_display(), VERDICT_COLOURS[signup.verdict])
