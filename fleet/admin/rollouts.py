"""Roll-outs of the relay image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from derp_portal.lib.asking import Question, act
from derp_portal.lib.errors import PortalError
from fleet.models import Rollout, Server
from fleet.services.rollout_relays import progress_of
from fleet.services.rollouts import (
    cancel_rollout,
    resume_rollout,
    roll_back,
    start_rollout,
    stop_rollout,
    why_stopped,
)

from .base import OperatorAdmin, actor, badge, change_url

STATE_COLOURS = {
    Rollout.State.CANARY: "info",
    Rollout.State.RUNNING: "info",
    Rollout.State.STOPPED: "danger",
    Rollout.State.DONE: "success",
    Rollout.State.CANCELLED: "warning",
}


class RolloutForm(forms.ModelForm[Rollout]):
    """What a roll-out begins with. `refusal` is what the service answered to these very values."""

    refusal: PortalError | None = None

    class Meta:
        model = Rollout
        fields = ("image", "canary", "percent_per_hour")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A page that is only looked at has no fields.
        if isinstance(chosen := self.fields.get("canary"), forms.ModelChoiceField):
            chosen.queryset = Server.objects.filter(runtime=Server.Runtime.DOCKER, phase=Server.Phase.HEALTHY)

    def clean(self) -> dict[str, Any]:
        """Show the service's answer."""
        data = super().clean() or {}
        if self.refusal is not None:
            raise ValidationError(str(self.refusal))
        return data


@admin.register(Rollout)
class RolloutAdmin(OperatorAdmin):
    """Bringing a new relay image to the fleet, and how far it is. Every write goes through `fleet.services`."""

    form = RolloutForm
    list_display = (
        "image",
        "show_state",
        "show_reason",
        "canary",
        "percent_per_hour",
        "actor",
        "started_at",
        "ended_at",
    )
    list_filter = ("state",)
    list_select_related = ("canary", "actor")
    search_fields = ("image",)
    actions_detail = ("stop", "resume", "cancel", "roll_back")
    change_form_outer_before_template = "admin/fleet/rollout_progress.html"
    readonly_fields = ("show_state", "show_reason", "actor", "paced_from", "started_at", "ended_at")
    add_fieldsets = ((None, {"fields": ("image", "canary", "percent_per_hour")}),)
    fieldsets = (
        (
            None,
            {
                "fields": (
                    ("image", "show_state", "show_reason"),
                    ("canary", "percent_per_hour", "actor"),
                    ("started_at", "paced_from", "ended_at"),
                )
            },
        ),
    )

    def has_change_permission(self, request: HttpRequest, obj: Rollout | None = None) -> bool:
        """What has begun is not edited; what can be done about it is an action."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Rollout | None = None) -> bool:
        """History stays."""
        return False

    def get_fieldsets(self, request: HttpRequest, obj: Rollout | None = None) -> Any:
        """A new one needs little."""
        return self.fieldsets if obj else self.add_fieldsets

    @display(description=gettext_lazy("state"), ordering="state")
    def show_state(self, rollout: Rollout) -> str:
        """The state, coloured."""
        return badge(rollout.get_state_display(), STATE_COLOURS[Rollout.State(rollout.state)])

    @display(description=gettext_lazy("stopped because"), empty_value="–")
    def show_reason(self, rollout: Rollout) -> str | None:
        """In words."""
        return why_stopped(rollout) or None

    def get_form(self, request: HttpRequest, obj: Rollout | None = None, **options: Any) -> type[RolloutForm]:
        """The form, knowing what the service has already refused in this request."""
        form: type[RolloutForm] = super().get_form(request, obj, **options)
        form.refusal = getattr(request, "refusal", None)
        return form

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """With the progress of what has begun; a refusal of the service comes back as an error of the form."""
        rollout = self.get_object(request, object_id) if object_id else None
        more = {"progress": progress_of(rollout), "rollout": rollout} if rollout else {}
        arguments = (request, object_id, form_url, {**(extra_context or {}), **more})
        try:
            answer: HttpResponseBase = super().changeform_view(*arguments)
        except PortalError as refusal:
            request.refusal = refusal  # type: ignore[attr-defined]
            answer = super().changeform_view(*arguments)
        return answer

    def save_model(self, request: HttpRequest, obj: Rollout, form: RolloutForm, change: bool) -> None:
        """Begin it through the service."""
        canary = form.cleaned_data["canary"]
        begun = start_rollout(
            image=form.cleaned_data["image"],
            canary_id=canary.pk if canary else None,
            percent_per_hour=form.cleaned_data["percent_per_hour"],
            actor=actor(request),
        )
        obj.pk, obj._state.adding = begun.pk, False

    @action(description=gettext_lazy("Stop"), url_path="stop", icon="pause", permissions=["act"])
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """For a while."""
        return self._ask(
            request,
            object_id,
            stop_rollout,
            title=_("Stop the roll-out of %(image)s?"),
            lines=[_("No other relay is changed until you resume it. Those that have the image keep it.")],
            button=_("Stop"),
            told=_("The roll-out of %(image)s has stopped."),
        )

    @action(description=gettext_lazy("Resume"), url_path="resume", icon="play_arrow", permissions=["act"])
    def resume(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Go on."""
        return self._ask(
            request,
            object_id,
            resume_rollout,
            title=_("Resume the roll-out of %(image)s?"),
            lines=[
                _("It goes on at its pace from now on; the time of the pause is not made up for."),
                _("On the canary, relays that failed are started afresh and must work this time."),
                _("Later on, relays that fail at this moment do not stop it again; others do."),
            ],
            button=_("Resume"),
            told=_("The roll-out of %(image)s goes on."),
        )

    @action(
        description=gettext_lazy("Call off"),
        url_path="cancel",
        icon="cancel",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def cancel(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Leave things as they are."""
        return self._ask(
            request,
            object_id,
            cancel_rollout,
            title=_("Call the roll-out of %(image)s off?"),
            lines=[
                _("Relays that have the image keep it; no other gets it. New relays get the former image."),
                _("To bring the former image back everywhere, roll it back instead."),
            ],
            button=_("Call off"),
            told=_("The roll-out of %(image)s was called off."),
            is_dangerous=True,
        )

    @action(
        description=gettext_lazy("Roll back"),
        url_path="roll-back",
        icon="undo",
        variant=ActionVariant.DANGER,
        permissions=["act"],
    )
    def roll_back(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Bring the former image back."""
        return self._ask(
            request,
            object_id,
            roll_back,
            title=_("Roll %(image)s back?"),
            lines=[
                _("A roll-out of the former image begins. Relays that do not work now get it at once."),
                _("The others get it within an hour. Sessions are cut once; addresses and identities stay."),
            ],
            button=_("Roll back"),
            told=_("The former image is being brought back."),
            is_dangerous=True,
        )

    def _ask(
        self,
        request: HttpRequest,
        object_id: str,
        service: Callable[..., Rollout],
        *,
        title: str,
        lines: list[str],
        button: str,
        told: str,
        is_dangerous: bool = False,
    ) -> HttpResponseBase:
        """Ask, then let the service do it to the roll-out that the address names."""
        rollout: Rollout = self.row_or_404(request, object_id)
        named = {"image": rollout.image}

        def do() -> str:
            service(rollout_id=rollout.pk, actor=actor(request))
            return told % named

        question = Question(
            title=title % named, lines=lines, button=button, back=change_url(rollout), is_dangerous=is_dangerous
        )
        return act(self, request, question, do)
