"""Leases, with their terms and bindings."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Count, Prefetch, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from derp_portal.lib.asking import Question, act, data_of
from derp_portal.lib.clock import now
from fleet.admin.base import HistoryAdmin, HistoryInline, actor, badge, change_url, link, list_url, when
from fleet.models import Relay
from serials import services
from serials.models import Binding, Lease, LeaseTerm, Plan, Reminder
from serials.services.terms import KEEP_PLACE

from .forms import NoticeForm, RenewForm

STATUS_COLOURS: dict[str, str] = {
    Lease.Status.ACTIVE: "success",
    Lease.Status.EXPIRED: "warning",
    Lease.Status.ENDED: "danger",
}


class EndsSoon(admin.SimpleListFilter):
    """Active leases by how soon they end."""

    title = gettext_lazy("end")
    parameter_name = "ends"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Days from now."""
        return [
            ("1", gettext_lazy("Within a day")),
            ("7", gettext_lazy("Within 7 days")),
            ("30", gettext_lazy("Within 30 days")),
        ]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Lease]) -> QuerySet[Lease]:
        """Narrow the list."""
        if self.value() not in ("1", "7", "30"):
            return queryset
        return queryset.filter(status=Lease.Status.ACTIVE, ends_at__lte=now() + timedelta(days=int(self.value() or 0)))


class CurrentPlan(DropdownFilter):
    """Leases by the plan that counts now."""

    title = gettext_lazy("plan")
    parameter_name = "plan"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Every plan."""
        return [(str(plan.pk), plan.local_name) for plan in Plan.objects.all()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Lease]) -> QuerySet[Lease]:
        """Narrow the list."""
        chosen = self.value() or ""
        if not chosen.isdecimal():
            return queryset
        current = LeaseTerm.objects.filter(state=LeaseTerm.State.CURRENT, plan_id=int(chosen))
        return queryset.filter(pk__in=current.values("lease_id"))


class TermInline(HistoryInline):
    """The queue of terms."""

    model = LeaseTerm
    fields = readonly_fields = ("plan", "starts_at", "ends_at", "state", "closed_at", "source", "serial", "actor")
    verbose_name_plural = gettext_lazy("terms")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LeaseTerm]:
        """With what they name, in one query."""
        return super().get_queryset(request).select_related("plan", "serial", "actor")  # type: ignore[no-any-return]


class ReminderInline(HistoryInline):
    """Reminders that were sent."""

    model = Reminder
    fields = readonly_fields = ("days", "lease_end", "created_at")
    verbose_name_plural = gettext_lazy("reminders")


@admin.register(Lease)
class LeaseAdmin(HistoryAdmin):
    """Customers' rights to relays."""

    list_display = ("user", "name", "show_status", "show_plan", "show_relays", "started_at", "ends_at")
    list_filter = ("status", EndsSoon, CurrentPlan)
    list_select_related = ("user",)
    search_fields = ("name", "user__username", "user__email", "relay_group__relays__code")
    actions_detail = ("renew", "notify", "end")
    inlines = (TermInline, ReminderInline)
    change_form_outer_after_template = "admin/serials/lease_bindings.html"
    fields = (
        ("show_user", "name", "show_status"),
        ("show_plan", "show_relays"),
        ("started_at", "ends_at"),
        ("renewed_at", "renewed_to", "active_since"),
        ("ended_at", "end_reason", "released_at"),
    )
    readonly_fields = ("show_user", "show_status", "show_plan", "show_relays")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Lease]:
        """With plan and relays, in a fixed number of queries."""
        live = Q(relay_group__relays__released_at=None)
        up = Q(relay_group__relays__observed_state=Relay.Observed.RUNNING)
        current = LeaseTerm.objects.filter(state=LeaseTerm.State.CURRENT).select_related("plan")
        queryset: QuerySet[Lease] = super().get_queryset(request)
        return (
            queryset.select_related("user")
            .prefetch_related(Prefetch("terms", current, to_attr="current_terms"))
            .annotate(
                live=Count("relay_group__relays", filter=live), running=Count("relay_group__relays", filter=live & up)
            )
        )

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """With its bindings, which hang on its terms."""
        bindings = Binding.objects.none()
        if object_id.isdecimal():
            bindings = Binding.objects.filter(term__lease_id=int(object_id)).select_related(
                "user", "serial", "term__plan", "relay_group"
            )
        return super().change_view(  # type: ignore[no-any-return]
            request, object_id, form_url, {**(extra_context or {}), "bindings": bindings}
        )

    @display(description=gettext_lazy("status"), ordering="status")
    def show_status(self, lease: Lease) -> str:
        """The status, coloured."""
        return badge(lease.get_status_display(), STATUS_COLOURS[lease.status])

    @display(description=gettext_lazy("plan"), empty_value="–")
    def show_plan(self, lease: Any) -> str | None:
        """The one that counts now."""
        return lease.current_terms[0].plan.local_name if lease.current_terms else None

    @display(description=gettext_lazy("relays running / made"), ordering="running")
    def show_relays(self, lease: Any) -> str:
        """With a link to them."""
        return link(list_url(Relay, group__id__exact=lease.relay_group_id), f"{lease.running} / {lease.live}")

    @display(description=gettext_lazy("user"))
    def show_user(self, lease: Lease) -> str:
        """With a link."""
        return link(change_url(lease.user), lease.user)

    @action(
        description=gettext_lazy("Renew"),
        url_path="renew",
        icon="event_repeat",
        variant=ActionVariant.PRIMARY,
        permissions=["act"],
    )
    def renew(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Up to a chosen day."""
        lease: Lease = self.row_or_404(request, object_id)
        form = RenewForm(data_of(request))

        def do() -> str:
            services.renew_lease(lease_id=lease.pk, until=form.cleaned_data["until"], actor=actor(request))
            lease.refresh_from_db(fields=["ends_at"])
            return _("%(lease)s of %(user)s is renewed. New end: %(end)s") % named(lease)

        question = Question(
            title=_("Renew %(lease)s of %(user)s") % named(lease),
            lines=[
                _("It runs until %(end)s; a term under its last plan is added up to the day you choose.")
                % named(lease),
                _("The customer is told by e-mail."),
            ],
            form=form,
            button=_("Renew"),
            back=change_url(lease),
        )
        return act(self, request, question, do)

    @action(description=gettext_lazy("Send a notice"), url_path="notify", icon="mail", permissions=["act"])
    def notify(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """One of the mails about the lease, once more."""
        lease: Lease = self.row_or_404(request, object_id)
        form = NoticeForm(data_of(request))

        def do() -> str:
            kind = Lease.Notice(form.cleaned_data["kind"])
            services.send_notice(lease_id=lease.pk, kind=kind, actor=actor(request))
            return _("The notice to %(user)s is on its way.") % named(lease)

        question = Question(
            title=_("Send %(user)s a notice about %(lease)s") % named(lease),
            lines=[
                _("It runs until %(end)s.") % named(lease),
                _("The e-mail goes out now; the reminders that are sent by themselves are not affected."),
            ],
            form=form,
            button=_("Send"),
            back=change_url(lease),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("End now"),
        url_path="end",
        icon="event_busy",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def end(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Take the rest of it away."""
        lease: Any = self.row_or_404(request, object_id)

        def do() -> str:
            services.end_lease(lease_id=lease.pk, reason=Lease.EndReason.STAFF, actor=actor(request))
            return _("%(lease)s of %(user)s has ended.") % named(lease)

        question = Question(
            title=_("End %(lease)s of %(user)s now?") % named(lease),
            lines=[*losses(lease), _("The customer is told by e-mail.")],
            button=_("End now"),
            back=change_url(lease),
            is_dangerous=True,
        )
        return act(self, request, question, do)


def named(lease: Lease) -> dict[str, str]:
    """What sentences about the lease say: its name, its user, its end."""
    return {"lease": lease.name, "user": str(lease.user), "end": when(lease.ends_at)}


def losses(lease: Any) -> list[str]:
    """What ending the lease now takes away, in sentences."""
    left = max((lease.ends_at - now()).days, 0)
    stops = ngettext("%(count)d relay stops at once.", "%(count)d relays stop at once.", lease.live)
    lost = ngettext("%(count)d full day is lost for good.", "%(count)d full days are lost for good.", left)
    kept = _(
        "Addresses and identities stay reserved for %(days)s days, so a renewal within that time needs no new map."
    )
    return [
        _("Planned end: %(end)s") % named(lease),
        f"{stops % {'count': lease.live}} {lost % {'count': left}}",
        kept % {"days": KEEP_PLACE.days},
    ]


@admin.register(Binding)
class BindingAdmin(HistoryAdmin):
    """User, serial, term and relays: what was wired together when a term was granted."""

    list_display = ("user", "serial", "term", "relay_group", "created_at")
    list_filter = ("created_at", "term__source")
    list_select_related = ("user", "serial", "term", "relay_group")
    search_fields = ("user__username", "user__email", "serial__code", "relay_group__relays__code")
