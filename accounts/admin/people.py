"""People, tokens, mail and the audit trail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from allauth.account.models import EmailAddress, EmailConfirmation
from django.apps import apps
from django.conf import settings
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.utils.text import capfirst
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from unfold.admin import ModelAdmin
from unfold.decorators import action, display
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from accounts import services
from accounts.access import signed_in
from accounts.models import ApiToken, AuditEntry, Notification, TaskFailure, User
from derp_portal.lib.asking import Question, act_on_selection
from derp_portal.lib.errors import PortalError

from .base import ReadOnlyAdmin

if TYPE_CHECKING:
    _UserAdmin = DjangoUserAdmin[User]
else:
    _UserAdmin = DjangoUserAdmin

admin.site.unregister(Group)
# An address is a way in: who could set somebody's could have a new password mailed to it.
for _model in (EmailAddress, EmailConfirmation):
    if admin.site.is_registered(_model):
        admin.site.unregister(_model)


class NewUserForm(UserCreationForm):
    """A user made by an operator, who vouches for the address."""

    class Meta:
        model = User
        fields = ("username", "email", "role")

    def clean_email(self) -> str:
        """In small letters, as logging in and resetting a password look for it."""
        return str(self.cleaned_data["email"]).lower()


@admin.register(Group)
class GroupAdmin(ModelAdmin):
    """Groups of staff permissions."""

    search_fields = ("name",)
    filter_horizontal = ("permissions",)


@admin.register(User)
class UserAdmin(_UserAdmin, ModelAdmin):
    """People. Nobody is deleted; accounts are switched off and on."""

    form = UserChangeForm
    add_form = NewUserForm
    change_password_form = AdminPasswordChangeForm
    list_display = ("username", "email", "show_role", "is_active", "rental_expiry", "created_at", "last_login")
    list_filter = ("role", "is_active", "language", "is_superuser")
    search_fields = ("username", "email")
    ordering = ("-created_at", "-id")
    filter_horizontal = ("groups", "user_permissions")
    actions = ("deactivate", "reactivate", "end_sessions")
    fieldsets = (
        (None, {"fields": ("username", "email", "password")}),
        (_("Profile"), {"fields": ("language", "timezone")}),
        (_("Rights"), {"fields": ("role", "is_superuser", "groups", "user_permissions")}),
        (_("State"), {"fields": ("is_active", "rental_expiry", "created_at", "last_login", "closed_at")}),
    )
    add_fieldsets = ((None, {"fields": ("username", "email", "role", "password1", "password2")}),)
    STATE_FIELDS: ClassVar[tuple[str, ...]] = (
        "username",
        "email",
        "is_active",
        "rental_expiry",
        "created_at",
        "last_login",
        "closed_at",
    )
    RIGHTS: ClassVar[tuple[str, ...]] = ("role", "is_superuser", "groups", "user_permissions")

    @display(
        description=_("role"),
        ordering="role",
        label={User.Role.USER: "info", User.Role.RESELLER: "success", User.Role.ADMIN: "warning"},
    )
    def show_role(self, user: User) -> tuple[str, str]:
        """The role, coloured."""
        return user.role, user.get_role_display()

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        """State always; rights for all but superusers, who else could raise themselves."""
        rights = () if _is_superuser(request) else self.RIGHTS
        return (*self.STATE_FIELDS, *rights) if obj else rights

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Only a superuser touches a superuser: a new password would be a way to become one."""
        is_out_of_reach = obj is not None and obj.is_superuser and not _is_superuser(request)
        return super().has_change_permission(request, obj) and not is_out_of_reach

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """History stays."""
        return False

    def has_act_permission(self, request: HttpRequest) -> bool:
        """Switching accounts off and on is a change."""
        return super().has_change_permission(request)

    def save_model(self, request: HttpRequest, obj: User, form: ModelForm[User], change: bool) -> None:
        """Write only what was changed here, the role through its service."""
        actor = signed_in(request)
        if not change:
            super().save_model(request, obj, form, change)
            EmailAddress.objects.create(user=obj, email=obj.email, verified=True, primary=True)
            services.record(actor=actor, event="user.created", target=obj, role=obj.role)
            return
        columns = {field.name for field in User._meta.concrete_fields}
        changed = [name for name in form.changed_data if name in columns and name != "role"]
        if changed:
            # Never the whole row: rental_expiry and others may have moved since the form was opened.
            obj.save(update_fields=changed)
        if rights := [name for name in form.changed_data if name in self.RIGHTS and name != "role"]:
            services.record(actor=actor, event="user.rights_changed", target=obj, changed=rights)
        if "role" in form.changed_data:
            services.change_role(user_id=obj.pk, role=obj.role, actor=actor)

    def user_change_password(self, request: HttpRequest, id: str, form_url: str = "") -> HttpResponse:
        """A new password by staff ends what the old one had opened, as one by its owner does."""
        with transaction.atomic():
            before = self.get_object(request, unquote(id))
            response: HttpResponse = super().user_change_password(request, id, form_url)
            after = self.get_object(request, unquote(id))
            if before and after and after.password != before.password:
                services.note_new_password(user_id=after.pk, actor=signed_in(request))
        return response

    @action(description=_("Switch off: no login, tokens revoked"), permissions=["act"])
    def deactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponseBase:
        """Switch the chosen accounts off, after asking."""
        question = Question(
            title=gettext("Switch these accounts off?"),
            lines=[
                ngettext("%(count)d account is chosen.", "%(count)d accounts are chosen.", queryset.count())
                % {"count": queryset.count()},
                gettext("They cannot log in, their API tokens are revoked for good, and their relays let nobody in."),
                gettext("Leases run on. To end them too, use “Close account” on the user's page."),
            ],
            button=gettext("Switch off"),
            back=request.get_full_path(),
            is_dangerous=True,
        )
        chosen = queryset.filter(is_active=True)
        return act_on_selection(
            self, request, question, lambda: self._for_each(request, chosen, services.deactivate_user)
        )

    @action(description=_("Switch on again"), permissions=["act"])
    def reactivate(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponseBase:
        """Let the chosen people in again."""
        return self._for_each(request, queryset.filter(is_active=False), services.reactivate_user)

    @action(description=_("Sign out of every browser"), permissions=["act"])
    def end_sessions(self, request: HttpRequest, queryset: QuerySet[User]) -> HttpResponseBase:
        """End the sessions of the chosen people, after asking."""
        question = Question(
            title=gettext("Sign these people out everywhere?"),
            lines=[
                ngettext("%(count)d account is chosen.", "%(count)d accounts are chosen.", queryset.count())
                % {"count": queryset.count()},
                gettext("They have to log in again in every browser. API tokens stay valid."),
            ],
            button=gettext("Sign out"),
            back=request.get_full_path(),
        )
        return act_on_selection(
            self, request, question, lambda: self._for_each(request, queryset, services.end_sessions)
        )

    def _for_each(self, request: HttpRequest, queryset: QuerySet[User], service: Any) -> HttpResponseBase:
        done = 0
        for user in queryset:
            if user.is_superuser and not _is_superuser(request):
                self.message_user(request, _("Only a superuser may do this to a superuser."), messages.ERROR)
                continue
            try:
                service(user_id=user.pk, actor=signed_in(request))
                done += 1
            except PortalError as error:
                self.message_user(request, str(error), messages.ERROR)
        if done:
            text = ngettext("Done for %(count)d account.", "Done for %(count)d accounts.", done) % {"count": done}
            self.message_user(request, text, messages.SUCCESS)
        return redirect(request.get_full_path())


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin):
    """API tokens; their secrets are known to nobody but their owners."""

    list_display = ("name", "prefix", "user", "show_state", "expires_at", "last_used_at", "created_at")
    list_filter = ("is_login", "created_at", "revoked_at")
    list_select_related = ("user",)
    search_fields = ("name", "prefix", "user__username", "user__email")
    exclude = ("digest",)
    actions = ("revoke",)

    @display(description=_("State"), label={"live": "success", "expired": "warning", "revoked": "danger"})
    def show_state(self, token: ApiToken) -> tuple[str, str]:
        """The state, coloured."""
        words = {"live": _("Valid"), "expired": _("Expired"), "revoked": _("Revoked")}
        return token.state, str(words[token.state])

    @action(description=_("Revoke"), permissions=["act"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiToken]) -> HttpResponseBase:
        """End the chosen tokens, after asking."""
        ids = list(queryset.values_list("pk", flat=True))

        def do() -> str:
            for token_id in ids:
                services.revoke_token(token_id=token_id, actor=signed_in(request))
            return ngettext("%(count)d token revoked.", "%(count)d tokens revoked.", len(ids)) % {"count": len(ids)}

        question = Question(
            title=gettext("Revoke these tokens?"),
            lines=[
                ngettext("%(count)d token is chosen.", "%(count)d tokens are chosen.", len(ids)) % {"count": len(ids)},
                gettext("Programs that use them are refused from now on. A revoked token cannot be brought back."),
            ],
            button=gettext("Revoke"),
            back=request.get_full_path(),
            is_dangerous=True,
        )
        return act_on_selection(self, request, question, do)


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    """The outbox."""

    list_display = ("subject", "recipient", "kind", "show_status", "attempts", "created_at", "sent_at")
    list_filter = ("status", "kind", "language", "created_at")
    search_fields = ("subject", "recipient", "user__username")
    exclude = ("body_text", "body_html")
    readonly_fields = ("show_body",)
    actions = ("resend",)

    @display(
        description=_("Status"),
        ordering="status",
        label={"sent": "success", "failed": "danger", "queued": "info", "sending": "info"},
    )
    def show_status(self, notification: Notification) -> tuple[str, str]:
        """The status, coloured."""
        return notification.status, notification.get_status_display()

    @display(description=_("text"))
    def show_body(self, notification: Notification) -> str:
        """The words, unless they hold a link that opens somebody's account."""
        return str(_("Hidden: it opens the account.")) if notification.is_secret else notification.body_text

    @action(description=_("Send again (failed ones)"), permissions=["act"])
    def resend(self, request: HttpRequest, queryset: QuerySet[Notification]) -> None:
        """Queue the chosen messages again, if they had failed."""
        ids = list(queryset.values_list("pk", flat=True))
        count = sum(services.resend(notification_id=pk, actor=signed_in(request)) for pk in ids)
        text = ngettext("%(count)d message queued again.", "%(count)d messages queued again.", count)
        self.message_user(request, text % {"count": count}, messages.SUCCESS if count else messages.WARNING)


class TargetType(admin.SimpleListFilter):
    """What the entry is about. The choices are the portal's models: asking the table would read all of it."""

    title = _("target type")
    parameter_name = "target_type"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """By their names."""
        rooms = [room for room in apps.get_app_configs() if Path(room.path).parent == settings.BASE_DIR]
        models = [model for room in rooms for model in room.get_models()]
        named = [(model._meta.label_lower, capfirst(str(model._meta.verbose_name))) for model in models]
        return sorted(named, key=lambda pair: pair[1])

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow the list."""
        return queryset.filter(target_type=self.value()) if self.value() else queryset


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """Who did what to which object, when, from where."""

    list_display = ("created_at", "event", "actor_label", "target_label", "target_type", "ip")
    list_filter = (TargetType, "created_at")
    search_fields = ("event", "actor_label", "target_label", "target_id", "ip")


@admin.register(TaskFailure)
class TaskFailureAdmin(ReadOnlyAdmin):
    """Background tasks that ended in an error nobody foresaw. Sweeps try again by themselves."""

    list_display = ("created_at", "task", "error", "arguments")
    list_filter = ("task", "created_at")
    search_fields = ("task", "task_id", "error", "arguments")


def _is_superuser(request: HttpRequest) -> bool:
    return bool(request.user.is_active and request.user.is_superuser)
