"""What staff can do about a customer from the user's page: renew, close the account."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from unfold.decorators import action
from unfold.enums import ActionVariant

from accounts.admin import UserAdmin
from accounts.models import User
from derp_portal.lib.asking import Question, act, data_of
from fleet.admin.base import actor, change_url
from serials import services
from serials.models import Lease
from serials.services.leases import groups_by_hand, lease_to_renew

from .forms import CloseAccountForm, RenewUserForm
from .leases import named

admin.site.unregister(User)


@admin.register(User)
class CustomerAdmin(UserAdmin):
    """People, with what they were granted."""

    actions_detail = (*UserAdmin.actions_detail, "renew", "close_account")
    list_fullwidth = True
    change_form_outer_after_template = "admin/serials/user_leases.html"

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """With the user's leases below, for those who may look at leases."""
        leases = Lease.objects.none()
        if object_id.isdecimal() and request.user.has_perm("serials.view_lease"):
            leases = Lease.objects.filter(user_id=int(object_id))
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), "leases": leases})

    def has_grant_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """What changes leases needs the right to change leases, and this page's own."""
        return bool(request.user.has_perm("serials.change_lease")) and self.has_change_permission(request)

    def _customer(self, request: HttpRequest, object_id: str) -> User:
        user = self.get_object(request, object_id)
        if not isinstance(user, User) or not self.has_change_permission(request, user):
            raise PermissionDenied
        return user

    @action(
        description=gettext_lazy("Renew"),
        url_path="renew",
        icon="event_repeat",
        variant=ActionVariant.PRIMARY,
        permissions=["grant"],
    )
    def renew(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The lease that ends last, up to a chosen day; or a new one."""
        user = self._customer(request, object_id)
        lease = lease_to_renew(user)
        form = RenewUserForm(data_of(request), asks_plan=lease is None)

        def do() -> str:
            renewed = services.renew_user(
                user_id=user.pk,
                until=form.cleaned_data["until"],
                plan=form.cleaned_data.get("plan"),
                actor=actor(request),
            )
            return _("%(lease)s of %(user)s is renewed. New end: %(end)s") % named(renewed)

        lines = [_("The customer is told by e-mail.")]
        if lease:
            lines.insert(0, _("%(lease)s runs until %(end)s; it is renewed under its last plan.") % named(lease))
        question = Question(
            title=_("Renew %(user)s") % {"user": user},
            lines=lines,
            form=form,
            button=_("Renew"),
            back=change_url(user),
        )
        return act(self, request, question, do)

    @action(
        description=gettext_lazy("Close account"),
        url_path="close",
        icon="person_off",
        variant=ActionVariant.DANGER,
        permissions=["grant"],
    )
    def close_account(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """End everything and lock the door."""
        user = self._customer(request, object_id)
        form = CloseAccountForm(data_of(request), user=user)
        active = Lease.objects.filter(user=user, status=Lease.Status.ACTIVE).count()
        by_hand = groups_by_hand(user.pk).count()

        def do() -> str:
            services.close_account(user_id=user.pk, actor=actor(request))
            return _("The account of %(user)s is closed.") % {"user": user}

        ends = ngettext(
            "%(count)d active lease ends now and its relays stop; the days left are lost.",
            "%(count)d active leases end now and their relays stop; the days left are lost.",
            active,
        )
        released = ngettext(
            "%(count)d relay given by hand is released for good.",
            "%(count)d relays given by hand are released for good.",
            by_hand,
        )
        question = Question(
            title=_("Close the account of %(user)s?") % {"user": user},
            lines=[
                ends % {"count": active},
                *([released % {"count": by_hand}] if by_hand else []),
                _("Nobody can log in with it any more, its API tokens are revoked and its sessions end."),
                _("What happened until now stays in the history."),
            ],
            form=form,
            button=_("Close the account"),
            back=change_url(user),
            is_dangerous=True,
        )
        return act(self, request, question, do)
