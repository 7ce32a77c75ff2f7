"""Announcements as staff write them: publishing, changing, sending by mail, withdrawing."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from accounts import services
from accounts.access import signed_in
from accounts.models import Announcement
from accounts.services.announcements import LONGEST, check, readers_by_mail
from derp_portal.lib.asking import Question, act
from derp_portal.lib.errors import PortalError

from .base import RowAdmin, badge, change_url

State = Announcement.State
COLOURS = {State.WAITING: "info", State.CURRENT: "success", State.OVER: "", State.WITHDRAWN: "danger"}
SAID = ("title", "title_zh", "text", "text_zh", "tone", "starts_at", "ends_at")


class AnnouncementForm(forms.ModelForm[Announcement]):
    """What is said, to whom, and how long; the service says what is wrong with it."""

    class Meta:
        model = Announcement
        fields = (*SAID, "audience")

    def clean(self) -> dict[str, Any]:
        """What the service would refuse, beside its field."""
        data: dict[str, Any] = super().clean() or {}
        if not self.errors:
            try:
                said = {name: data[name] for name in LONGEST}
                before = self.instance if self.instance.pk else None
                check(said, data["starts_at"], data["ends_at"], before=before)
            except PortalError as refusal:
                for one in refusal.extra["fields"]:
                    self.add_error(one["field"], one["message"])
        return data


class StateFilter(admin.SimpleListFilter):
    """Where it is in its life."""

    title = _("state")
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """All of them."""
        return list(State.choices)

    def queryset(self, request: HttpRequest, queryset: QuerySet[Announcement]) -> QuerySet[Announcement]:
        """Narrow the list."""
        chosen = self.value()
        return queryset.filter(Announcement.in_state(State(chosen))) if chosen in State.values else queryset


@admin.register(Announcement)
class AnnouncementAdmin(RowAdmin):
    """What stands above everybody's pages. Never deleted; a withdrawn one is shown to nobody and stays as it was."""

    form = AnnouncementForm
    list_display = ("show_title", "audience", "show_state", "starts_at", "ends_at", "show_mails", "author")
    list_filter = (StateFilter, "audience", "tone", "starts_at")
    list_select_related = ("author",)
    search_fields = ("title", "title_zh", "text", "text_zh")
    search_help_text = _("Words of the title or the text")
    actions_detail = ("mail", "withdraw")
    fieldsets = (
        (None, {"fields": (("title", "title_zh"), ("text", "text_zh"))}),
        (_("Who reads it, and when"), {"fields": (("audience", "tone"), "starts_at", "ends_at")}),
        (
            _("What became of it"),
            {"fields": (("show_state", "withdrawn_at"), ("show_mails", "show_closed"), ("author", "created_at"))},
        ),
    )
    readonly_fields = ("show_state", "show_mails", "show_closed", "author", "created_at", "withdrawn_at")

    def get_fieldsets(self, request: HttpRequest, obj: Announcement | None = None) -> Any:
        """A new one has become nothing yet."""
        return self.fieldsets if obj is not None else self.fieldsets[:2]

    def get_readonly_fields(self, request: HttpRequest, obj: Announcement | None = None) -> tuple[str, ...]:
        """Whoever has had it by mail keeps being its reader: for others, one writes another."""
        return self.readonly_fields if obj is None else (*self.readonly_fields, "audience")

    def has_change_permission(self, request: HttpRequest, obj: Announcement | None = None) -> bool:
        """Not of what was withdrawn."""
        is_open = obj is None or obj.withdrawn_at is None
        return is_open and bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Announcement | None = None) -> bool:
        """What people have been told stays on record."""
        return False

    def save_model(
        self, request: HttpRequest, obj: Announcement, form: forms.ModelForm[Announcement], change: bool
    ) -> None:
        """By the service."""
        said = {name: form.cleaned_data[name] for name in SAID}
        actor = signed_in(request)
        if change:
            services.change_announcement(announcement_id=obj.pk, actor=actor, **said)
            return
        added = services.publish_announcement(audience=form.cleaned_data["audience"], actor=actor, **said)
        obj.pk, obj.author, obj._state.adding = added.pk, actor, False

    def get_actions_detail(self, request: HttpRequest, object_id: int) -> list[UnfoldAction]:
        """Only what makes sense for it as it is."""
        announcement = Announcement.objects.filter(pk=object_id).first()
        if announcement is None:
            return []
        lasts = announcement.state in {State.WAITING, State.CURRENT}
        fits = {
            "accounts_announcement_mail": lasts and announcement.mail_asked_at is None,
            "accounts_announcement_withdraw": announcement.withdrawn_at is None,
        }
        actions: list[UnfoldAction] = super().get_actions_detail(request, object_id)
        return [one for one in actions if fits[one.action_name]]

    # --- what a row shows ---

    @display(description=_("title"), ordering="title")
    def show_title(self, announcement: Announcement) -> str:
        """In the reader's language."""
        return announcement.local_title

    @display(description=_("state"))
    def show_state(self, announcement: Announcement) -> str:
        """Coloured."""
        state = announcement.state
        return badge(state.label, COLOURS[state])

    @display(description=_("mails"), empty_value="–")
    def show_mails(self, announcement: Announcement) -> str | None:
        """How many are written; while they are being written, also that there are more to come."""
        if announcement.mail_asked_at is None:
            return None
        count = announcement.mailed_count
        if announcement.mailed_at is not None or announcement.state in {State.OVER, State.WITHDRAWN}:
            return ngettext("%(count)s written", "%(count)s written", count) % {"count": count}
        if announcement.state == State.WAITING and not count:
            return gettext("when it begins")
        return ngettext("%(count)s written so far", "%(count)s written so far", count) % {"count": count}

    @display(description=_("closed by readers"))
    def show_closed(self, announcement: Announcement) -> int:
        """How many have read it and closed it, in its present words."""
        return announcement.closed_by.count()

    # --- what staff do ---

    @action(description=_("Send it by mail too"), url_path="mail", icon="mail", permissions=["act"])
    def mail(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, with how many it would reach."""
        announcement: Announcement = self.row_or_404(request, object_id)
        count = readers_by_mail(announcement).count()

        def do() -> str:
            services.mail_announcement(announcement_id=announcement.pk, actor=signed_in(request))
            return gettext("The mails are being written. This page says how many are.")

        reach = ngettext(
            "It goes to %(count)s person, in their language where it is written in it.",
            "It goes to %(count)s people, each in their language where it is written in it.",
            count,
        )
        lines = [reach % {"count": count}, gettext("A mail that has gone out cannot be taken back.")]
        if announcement.state == State.WAITING:
            lines.append(gettext("They are written once it begins to be shown."))
        question = Question(
            title=gettext("Send “%(title)s” by mail?") % {"title": announcement.local_title},
            lines=lines,
            button=gettext("Send it by mail"),
            back=change_url(announcement),
            is_dangerous=True,
        )
        return act(self, request, question, do)

    @action(
        description=_("Withdraw"), url_path="withdraw", icon="block", permissions=["act"], variant=ActionVariant.DANGER
    )
    def withdraw(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, then show it to nobody any more."""
        announcement: Announcement = self.row_or_404(request, object_id)

        def do() -> str:
            services.withdraw_announcement(announcement_id=announcement.pk, actor=signed_in(request))
            return gettext("The announcement is withdrawn.")

        question = Question(
            title=gettext("Withdraw “%(title)s”?") % {"title": announcement.local_title},
            lines=[
                gettext("Nobody sees it any more, neither above the pages nor in the list of announcements."),
                gettext("Mails of it that wait to be sent are dropped; those that have gone out stay."),
                gettext("It cannot be shown again. To tell something else, write a new one."),
            ],
            button=gettext("Withdraw"),
            back=change_url(announcement),
            is_dangerous=True,
        )
        return act(self, request, question, do)
