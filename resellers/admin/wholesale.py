"""What resellers say they sold, and whose customers the owners of leases see themselves as."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display

from billing.admin.words import amount
from derp_portal.lib.asking import Question, act, data_of
from fleet.admin.base import HistoryAdmin, actor, change_url, link
from resellers import services
from resellers.models import LeaseContact, Resale
from serials.codes import canonical

from .forms import ReassignForm


@admin.register(Resale)
class ResaleAdmin(HistoryAdmin):
    """What resellers got for serials of their stock, in their own words."""

    list_display = ("sold_on", "show_serial", "show_seller", "customer", "show_price", "show_cost", "created_at")
    list_filter = ("currency", "sold_on")
    list_select_related = ("sold__serial", "sold__line__order__user")
    search_fields = ("customer", "sold__line__order__user__username")
    search_help_text = gettext_lazy("Name of the reseller or the customer; or a whole serial number")
    ordering = ("-id",)
    fields = (
        ("show_serial", "show_seller"),
        ("customer", "sold_on"),
        ("show_price", "show_cost"),
        ("note", "created_at"),
    )
    readonly_fields = ("show_serial", "show_seller", "show_price", "show_cost")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Resale], search_term: str
    ) -> tuple[QuerySet[Resale], bool]:
        """By a whole code too, as people type codes."""
        found, has_duplicates = super().get_search_results(request, queryset, search_term)
        code = canonical(search_term)
        if code:
            found = found | queryset.filter(sold__serial__code=code)
        return found, has_duplicates

    @display(description=gettext_lazy("serial"))
    def show_serial(self, resale: Resale) -> str:
        """Its beginning and end, with a link."""
        return link(change_url(resale.sold.serial), resale.sold.serial)

    @display(description=gettext_lazy("reseller"))
    def show_seller(self, resale: Resale) -> str:
        """Who bought it wholesale."""
        return str(resale.sold.line.order.user or "–")

    @display(description=gettext_lazy("price"), ordering="price")
    def show_price(self, resale: Resale) -> str:
        """What they got."""
        return amount(resale.price, resale.currency)

    @display(description=gettext_lazy("cost them"))
    def show_cost(self, resale: Resale) -> str:
        """What they paid."""
        return amount(resale.sold.cost, resale.sold.line.order.currency)


@admin.register(LeaseContact)
class LeaseContactAdmin(HistoryAdmin):
    """Which reseller the customer of a lease sees as their seller: the one whose serial it began with."""

    list_display = ("show_lease", "show_customer", "show_reseller", "reason", "created_at")
    list_filter = (("reseller", AutocompleteSelectFilter), "created_at")
    list_select_related = ("lease__user", "reseller__user")
    search_fields = ("lease__user__username", "lease__user__email", "reseller__code", "reseller__user__username")
    search_help_text = gettext_lazy("User name or e-mail of the customer; name or link code of the reseller")
    ordering = ("-id",)
    actions_detail = ("reassign",)
    fields = (("show_lease", "show_customer", "show_reseller"), ("reason", "created_at"))
    readonly_fields = ("show_lease", "show_customer", "show_reseller")

    def get_queryset(self, request: HttpRequest) -> QuerySet[LeaseContact]:
        """With what a page names."""
        queryset: QuerySet[LeaseContact] = super().get_queryset(request)
        return queryset.select_related("lease__user", "reseller__user")

    @display(description=gettext_lazy("lease"))
    def show_lease(self, contact: LeaseContact) -> str:
        """With a link."""
        return link(change_url(contact.lease), contact.lease)

    @display(description=gettext_lazy("customer"))
    def show_customer(self, contact: LeaseContact) -> str:
        """With a link."""
        return link(change_url(contact.lease.user), contact.lease.user)

    @display(description=gettext_lazy("reseller"))
    def show_reseller(self, contact: LeaseContact) -> str:
        """With a link."""
        return link(change_url(contact.reseller), contact.reseller) if contact.reseller else _("the portal itself")

    @action(description=gettext_lazy("Reassign"), url_path="reassign", icon="move_down", permissions=["act"])
    def reassign(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """To another reseller, or to the portal itself."""
        contact: LeaseContact = self.row_or_404(request, object_id)
        form = ReassignForm(data_of(request))

        def do() -> str:
            services.reassign_lease(
                lease_id=contact.lease_id,
                reseller=form.cleaned_data["reseller"],
                reason=form.cleaned_data["reason"],
                actor=actor(request),
            )
            seller = form.cleaned_data["reseller"] or _("the portal itself")
            return _("The seller of %(customer)s is %(seller)s now.") % {**told, "seller": seller}

        told = {
            "customer": contact.lease.user,
            "lease": contact.lease,
            "seller": contact.reseller or _("the portal itself"),
        }
        question = Question(
            title=_("Who is the seller of %(lease)s of %(customer)s?") % told,
            lines=[
                _("Now it is %(seller)s.") % told,
                _("Pages and mails show the customer the new seller, their contact and where to renew, from now on."),
            ],
            form=form,
            button=_("Reassign"),
            back=change_url(contact),
        )
        return act(self, request, question, do)
