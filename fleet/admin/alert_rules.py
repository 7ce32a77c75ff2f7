"""What alerts come from and where they go: rules, breaches, channels, deliveries, silences."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.contrib.filters.admin import RelatedDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from derp_portal.lib.asking import Question, act
from derp_portal.lib.clock import now
from fleet.models import AlertChannel, AlertDelivery, AlertRule, Breach, Silence
from fleet.services import alert_delivery
from fleet.services.alert_words import undelivered, wording

from .alerts import SEVERITY_COLOURS
from .base import EditableAdmin, HistoryAdmin, actor, badge, change_url, link

LONGEST_ADDRESS = 2000


@admin.register(AlertRule)
class AlertRuleAdmin(EditableAdmin):
    """When figures of servers are alerts. Changes hold from the next look on, which is within half a minute."""

    list_display = (
        "name",
        "metric",
        "comparison",
        "threshold",
        "for_seconds",
        "show_severity",
        "remind_seconds",
        "is_enabled",
    )
    list_filter = ("metric", "severity", "is_enabled")
    search_fields = ("name",)
    autocomplete_fields = ("servers", "regions")
    fields = (
        ("name", "is_enabled"),
        ("metric", "comparison", "threshold"),
        ("for_seconds", "severity", "remind_seconds"),
        "servers",
        "regions",
    )

    @display(description=gettext_lazy("severity"), ordering="severity")
    def show_severity(self, rule: AlertRule) -> str:
        """The severity, coloured."""
        return badge(rule.get_severity_display(), SEVERITY_COLOURS[rule.severity])


@admin.register(Breach)
class BreachAdmin(HistoryAdmin):
    """Figures that are past a threshold at this moment: an alert once that has lasted."""

    list_display = ("show_server", "rule", "since")
    list_filter = (("rule", RelatedDropdownFilter), ("server", RelatedDropdownFilter))
    list_select_related = ("rule", "server")
    search_fields = ("rule__name", "server__name")
    ordering = ("since", "id")

    @display(description=gettext_lazy("server"), ordering="server__name")
    def show_server(self, breach: Breach) -> str:
        """With a link."""
        return link(change_url(breach.server), breach.server)


class AddressWidget(UnfoldAdminTextInputWidget):
    """Takes an address with keys in it and never shows one, not even what was just sent and refused."""

    def format_value(self, value: Any) -> None:
        """Nothing, whatever there is."""


class ChannelForm(forms.ModelForm[AlertChannel]):
    """A channel of `owner`, who is whoever adds it."""

    owner: User | None = None

    address = forms.CharField(
        label=gettext_lazy("address"),
        max_length=LONGEST_ADDRESS,
        required=False,
        widget=AddressWidget(attrs={"autocomplete": "off", "spellcheck": "false", "placeholder": "tgram://…"}),
        help_text=gettext_lazy(
            "An Apprise address, such as mailto://, tgram://, dingtalk://, wecombot://, feishu://, schan://, bark:// "
            "or json://. It holds keys and is not shown again; left empty, the one there is stays."
        ),
    )

    class Meta:
        model = AlertChannel
        fields = ("name", "address", "min_severity", "is_enabled")

    def clean_name(self) -> str:
        """Of one operator's channels no two have one name."""
        name: str = self.cleaned_data["name"]
        owner = self.instance.owner if self.instance.pk else self.owner
        if AlertChannel.objects.filter(owner=owner, name=name).exclude(pk=self.instance.pk).exists():
            raise ValidationError(_("There is a channel of that name."), code="unique")
        return name

    def clean_address(self) -> str:
        """One that messages can be sent to; empty keeps what is there."""
        address: str = self.cleaned_data["address"]
        if address:
            alert_delivery.check_address(address)
            return address
        if not self.instance.pk:
            raise ValidationError(_("A channel needs an address."), code="required")
        return str(self.instance.address)


@admin.register(AlertChannel)
class AlertChannelAdmin(EditableAdmin):
    """Where operators want to be told. Everybody has their own; a superuser sees all."""

    form = ChannelForm
    list_display = ("name", "owner", "min_severity", "is_enabled", "last_sent_at", "show_error")
    list_filter = ("is_enabled", "min_severity")
    list_select_related = ("owner",)
    search_fields = ("name", "owner__username")
    ordering = ("owner__username", "name")
    actions_detail = ("test",)
    fields = (("name", "owner"), "address", ("min_severity", "is_enabled"), ("last_sent_at", "show_error"))
    readonly_fields = ("owner", "last_sent_at", "show_error")

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertChannel]:
        """One's own."""
        channels: QuerySet[AlertChannel] = super().get_queryset(request)
        return channels if actor(request).is_superuser else channels.filter(owner=actor(request))

    def get_form(self, request: HttpRequest, obj: AlertChannel | None = None, **options: Any) -> type[ChannelForm]:
        """The form, knowing whose channel it would be."""
        form: type[ChannelForm] = super().get_form(request, obj, **options)
        form.owner = actor(request)
        return form

    def save_model(self, request: HttpRequest, obj: Model, form: forms.ModelForm[Any], change: bool) -> None:
        """A new channel is of whoever adds it."""
        if not change:
            form.instance.owner = actor(request)
        super().save_model(request, obj, form, change)

    @display(description=gettext_lazy("last error"), empty_value="–")
    def show_error(self, channel: AlertChannel) -> str | None:
        """Why the last message did not arrive."""
        return undelivered(channel.last_error) or None

    @action(description=gettext_lazy("Test"), url_path="test", icon="send", permissions=["act"])
    def test(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, then send a greeting and say whether it arrived."""
        channel: AlertChannel = self.row_or_404(request, object_id)
        question = Question(
            title=_("Send a test message?"),
            lines=[_("A greeting goes to %(channel)s at once.") % {"channel": channel}],
            button=_("Send"),
            back=change_url(channel),
        )

        def send() -> str:
            alert_delivery.test_channel(channel_id=channel.pk, actor=actor(request))
            return _("A message was delivered to %(channel)s.") % {"channel": channel}

        return act(self, request, question, send)


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(HistoryAdmin):
    """Which alert went to which channel, and what hindered it."""

    list_display = ("created_at", "show_alert", "show_channel", "show_state", "tries", "sent_at", "show_error")
    list_filter = (("channel", RelatedDropdownFilter), "created_at")
    list_select_related = ("alert", "channel__owner")
    search_fields = ("alert__message", "channel__name", "channel__owner__username")
    exclude = ("error",)
    readonly_fields = ("show_error",)

    @display(description=gettext_lazy("alert"))
    def show_alert(self, delivery: AlertDelivery) -> str:
        """What it says, with a link."""
        return link(change_url(delivery.alert), wording(delivery.alert))

    @display(description=gettext_lazy("channel"), ordering="channel__name")
    def show_channel(self, delivery: AlertDelivery) -> str:
        """Its name and whose it is."""
        return f"{delivery.channel} · {delivery.channel.owner}"

    @display(description=gettext_lazy("state"), ordering="sent_at")
    def show_state(self, delivery: AlertDelivery) -> str:
        """Whether it arrived."""
        if delivery.sent_at:
            return badge(_("Sent"), "success")
        if delivery.tries >= alert_delivery.MAX_TRIES:
            return badge(_("Given up"), "danger")
        return badge(_("Waiting"), "warning" if delivery.tries else "info")

    @display(description=gettext_lazy("error"), ordering="error", empty_value="–")
    def show_error(self, delivery: AlertDelivery) -> str | None:
        """What hindered it."""
        return undelivered(delivery.error) or None


@admin.register(Silence)
class SilenceAdmin(EditableAdmin):
    """Times in which alerts are kept but tell nobody."""

    list_display = ("show_kind", "show_server", "show_state", "starts_at", "ends_at", "note")
    list_filter = ("alert_type", ("server", RelatedDropdownFilter), "ends_at")
    list_select_related = ("server",)
    search_fields = ("note", "server__name")
    ordering = ("-ends_at", "-id")
    autocomplete_fields = ("server",)
    fields = (("alert_type", "server"), ("starts_at", "ends_at"), "note")

    @display(description=gettext_lazy("alert"), ordering="alert_type")
    def show_kind(self, silence: Silence) -> str:
        """The kind it is about."""
        return silence.get_alert_type_display() if silence.alert_type else _("every kind")

    @display(description=gettext_lazy("server"), ordering="server__name")
    def show_server(self, silence: Silence) -> str:
        """The server it is about."""
        return str(silence.server) if silence.server else _("every server")

    @display(description=gettext_lazy("state"))
    def show_state(self, silence: Silence) -> str:
        """Whether it is quiet now."""
        if silence.ends_at <= now():
            return badge(_("Over"), "")
        return badge(_("In force"), "warning") if silence.starts_at <= now() else badge(_("To come"), "info")
