"""Whose customer somebody is: who has brought them, and how staff correct it."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display

from accounts.models import User
from derp_portal.lib.asking import Question, act, data_of
from fleet.admin.base import HistoryAdmin, actor, badge, change_url, link
from resellers import services
from resellers.models import Attribution
from serials.admin.customers import CustomerAdmin

from .forms import AssignForm


class IsPresent(admin.SimpleListFilter):
    """Whose customers they are now, or were before."""

    title = gettext_lazy("holds")
    parameter_name = "holds"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Now or before."""
        return [("yes", gettext_lazy("now")), ("no", gettext_lazy("until it was corrected"))]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Attribution]) -> QuerySet[Attribution]:
        """Narrow the list."""
        if self.value() not in ("yes", "no"):
            return queryset
        return queryset.filter(until__isnull=self.value() == "yes")


@admin.register(Attribution)
class AttributionAdmin(HistoryAdmin):
    """Whose customers people are. It is fixed at sign-up; a correction ends one row and begins another."""

    list_display = ("show_user", "show_reseller", "show_state", "since", "until", "reason", "actor")
    list_filter = (IsPresent, ("reseller", AutocompleteSelectFilter), "since")
    list_select_related = ("user", "reseller__user", "actor")
    search_fields = ("user__username", "user__email", "reseller__code", "reseller__user__username")
    search_help_text = gettext_lazy("User name or e-mail of the customer; name or link code of the reseller")
    ordering = ("-id",)
    actions_detail = ("assign",)
    fields = (("show_user", "show_reseller", "show_state"), ("since", "until"), ("reason", "actor", "created_at"))
    readonly_fields = ("show_user", "show_reseller", "show_state")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Attribution]:
        """With what a page names."""
        queryset: QuerySet[Attribution] = super().get_queryset(request)
        return queryset.select_related("user", "reseller__user", "actor")

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only where it holds: what is over is history."""
        if not Attribution.objects.filter(pk=object_id, until=None).exists():
            return []
        return list(super().get_actions_detail(request, object_id))

    @display(description=gettext_lazy("customer"))
    def show_user(self, attribution: Attribution) -> str:
        """With a link."""
        return link(change_url(attribution.user), attribution.user)

    @display(description=gettext_lazy("reseller"))
    def show_reseller(self, attribution: Attribution) -> str:
        """With a link."""
        return link(change_url(attribution.reseller), attribution.reseller)

    @display(description=gettext_lazy("holds"))
    def show_state(self, attribution: Attribution) -> str:
        """Whether it is so now."""
        return badge(_("now"), "success") if attribution.until is None else badge(_("ended"), "")

    @action(
        description=gettext_lazy("Assign to another reseller"),
        url_path="assign",
        icon="move_down",
        permissions=["act"],
    )
    def assign(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """To another reseller, or to nobody."""
        attribution: Attribution = self.row_or_404(request, object_id)
        return ask_whose(self, request, attribution.user, back=change_url(attribution))


def ask_whose(model_admin: Any, request: HttpRequest, user: User, *, back: str) -> HttpResponseBase:
    """Ask whose customer the user is from now on, and write it down."""
    form = AssignForm(data_of(request))
    present = Attribution.objects.filter(user=user, until=None).select_related("reseller__user").first()

    def do() -> str:
        reseller = form.cleaned_data["reseller"]
        reason = form.cleaned_data["reason"]
        services.correct_attribution(user_id=user.pk, reseller=reseller, reason=reason, actor=actor(request))
        told = {"user": user, "reseller": reseller}
        if reseller is None:
            return _("%(user)s is nobody's customer now.") % told
        return _("%(user)s is a customer of %(reseller)s now.") % told

    told = {"user": user, "reseller": present.reseller if present else None}
    question = Question(
        title=_("Whose customer is %(user)s?") % told,
        lines=[
            _("Now of %(reseller)s.") % told if present else _("Nobody's until now."),
            _("It counts from this moment on. Commissions of what was paid before stay as they are."),
        ],
        form=form,
        button=_("Assign"),
        back=back,
    )
    return act(model_admin, request, question, do)


admin.site.unregister(User)


@admin.register(User)
class ReferredAdmin(CustomerAdmin):
    """People, with what they were granted and who has brought them."""

    actions_detail = (*CustomerAdmin.actions_detail, "assign_reseller")

    def has_assign_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever may correct attributions."""
        return bool(request.user.has_perm("resellers.change_attribution"))

    @action(
        description=gettext_lazy("Whose customer"), url_path="assign-reseller", icon="handshake", permissions=["assign"]
    )
    def assign_reseller(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Of which reseller, or of nobody."""
        user = self.get_object(request, object_id)
        if not isinstance(user, User) or not self.has_view_permission(request, user):
            raise PermissionDenied
        return ask_whose(self, request, user, back=change_url(user))
