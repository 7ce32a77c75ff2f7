"""Payment methods: which gateways are set up, and how. Their secrets go in and never come out again."""

from __future__ import annotations

from typing import Any

from django import forms
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import display
from unfold.widgets import UnfoldAdminPasswordWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from billing import services
from billing.gateways import KINDS
from billing.gateways.base import Gateway, SettingField
from billing.gateways.sandbox import SandboxGateway
from billing.models import PaymentMethod
from billing.services.methods import notify_url, settings_of
from fleet.admin.base import actor, badge
from fleet.admin.server_form import WriteOnlyTextarea

from .forms import MoneyAdmin, MoneyModelForm

PREFIX = "setting_"
"""What the names of a gateway's own fields begin with in the form."""
TEST = "TEST"


class MethodForm(MoneyModelForm):
    """A payment method with its gateway's settings. `refusal` is what the service answered to these very values."""

    gateway: type[Gateway] | None = None
    refusal: ValidationError | None = None

    class Meta:
        model = PaymentMethod
        exclude = ("settings", "kind")

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.gateway is None:
            return
        if not self.instance.pk:
            self.instance.kind = self.gateway.kind
        kept = settings_of(self.instance) if self.instance.pk else {}
        for field in self.gateway.fields:
            shown = self.fields.get(PREFIX + field.name)
            if shown is None:
                continue
            if not field.is_secret:
                self.initial[PREFIX + field.name] = kept.get(field.name, "")
            elif kept.get(field.name):
                shown.required = False
                shown.help_text = " ".join(filter(None, (_("Set. Left empty, it is kept."), str(field.help))))

    def clean(self) -> dict[str, Any]:
        """With the service's answer, beside the fields it names."""
        data = super().clean()
        if self.refusal is not None:
            named = getattr(self.refusal, "error_dict", {"": [self.refusal]})
            for name, errors in named.items():
                self.add_error(name if name in self.fields else None, errors)
        return data

    def values(self) -> dict[str, str]:
        """What was typed for the gateway."""
        return {
            name.removeprefix(PREFIX): str(value or "")
            for name, value in self.cleaned_data.items()
            if name.startswith(PREFIX)
        }


def form_of(gateway: type[Gateway] | None) -> type[MethodForm]:
    """The form of a method of that gateway."""
    fields = {PREFIX + field.name: _field(field) for field in gateway.fields} if gateway else {}
    return type("MethodForm", (MethodForm,), {**fields, "gateway": gateway})


def _field(field: SettingField) -> forms.CharField:
    plain = {"spellcheck": "false", "autocomplete": "off"}
    if field.is_secret and field.is_long:
        widget: forms.Widget = WriteOnlyTextarea(attrs={**plain, "rows": 4})
    elif field.is_secret:
        widget = UnfoldAdminPasswordWidget(attrs={**plain, "autocomplete": "new-password"})
    elif field.is_long:
        widget = UnfoldAdminTextareaWidget(attrs={"rows": 4})
    else:
        widget = UnfoldAdminTextInputWidget(attrs=plain)
    words: dict[str, Any] = {"label": field.label, "help_text": field.help}
    return forms.CharField(**words, required=field.is_required, max_length=20_000, widget=widget)


@admin.register(PaymentMethod)
class PaymentMethodAdmin(MoneyAdmin):
    """Ways to pay. One that was ever used cannot be deleted, only taken from the shop."""

    list_display = ("name", "show_kind", "code", "currency", "is_enabled", "show_fee", "position")
    list_filter = ("is_enabled", "kind", "currency")
    search_fields = ("code", "name", "name_zh")
    exclude = ("settings", "kind")
    readonly_fields = ("show_kind", "show_notify_url")

    def get_readonly_fields(self, request: HttpRequest, obj: PaymentMethod | None = None) -> tuple[str, ...]:
        """The code is part of the address that the gateway has been given."""
        return (*self.readonly_fields, "code") if obj else self.readonly_fields

    def get_fieldsets(self, request: HttpRequest, obj: PaymentMethod | None = None) -> Any:
        """The method itself, where its gateway calls, and what its gateway wants to know."""
        gateway = self._gateway(request, obj)
        own = tuple(PREFIX + field.name for field in gateway.fields) if gateway else ()
        may_change = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        found: list[Any] = [
            (
                None,
                {
                    "fields": (
                        ("show_kind", "is_enabled"),
                        ("name", "name_zh"),
                        ("code", "position"),
                        ("currency", "fee_basis_points"),
                    ),
                    "description": _warning(gateway),
                },
            )
        ]
        if gateway and own and may_change:
            words = _("What is secret here is encrypted, and never shown again.")
            if gateway.is_automatic and obj is None:
                words = (
                    _("The gateway is to call %(address)s, with the code from above.")
                    % {"address": settings.PUBLIC_URL + reverse("gateway_callback", args=["CODE"])}
                    + f" {words}"
                )
            found.append((gateway.label, {"fields": own, "description": words}))
        if gateway and gateway.is_automatic and obj:
            found.insert(1, (gettext_lazy("Address for the gateway"), {"fields": ("show_notify_url",)}))
        return found

    def get_form(self, request: HttpRequest, obj: PaymentMethod | None = None, **options: Any) -> type[MethodForm]:
        """With the gateway's own fields, and knowing what the service has already refused in this request."""
        options["form"] = form_of(self._gateway(request, obj))
        form: type[MethodForm] = super().get_form(request, obj, **options)
        form.refusal = getattr(request, "refusal", None)
        return form

    def add_view(
        self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponseBase:
        """First which gateway, then its form."""
        if self._gateway(request, None) is None and self.has_add_permission(request):
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": _("Which gateway?"),
                "kinds": [(kind, gateway.label, _currencies(gateway)) for kind, gateway in KINDS.items()],
            }
            return TemplateResponse(request, "admin/billing/which_gateway.html", context)
        return super().add_view(request, form_url, extra_context)  # type: ignore[no-any-return]

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponseBase:
        """A refusal of the service comes back as an error of the form; nothing was saved by then."""
        arguments = (request, object_id, form_url, extra_context)
        try:
            answer: HttpResponseBase = super().changeform_view(*arguments)
        except ValidationError as refusal:
            request.refusal = refusal  # type: ignore[attr-defined]
            answer = super().changeform_view(*arguments)
        return answer

    def save_model(self, request: HttpRequest, obj: Model, form: ModelForm[Any], change: bool) -> None:
        """By the service, which tries the settings. The audit trail gets the names of what changed, nothing else."""
        assert isinstance(obj, PaymentMethod)
        assert isinstance(form, MethodForm)
        changed = [name.removeprefix(PREFIX) for name in form.changed_data]
        services.save_method(method=obj, values=form.values(), changed=changed, actor=actor(request))

    def has_delete_permission(self, request: HttpRequest, obj: PaymentMethod | None = None) -> bool:
        """Only one that nobody ever paid by, and nobody ever called."""
        if obj is not None and (obj.payments.exists() or obj.callbacks.exists() or obj.postings.exists()):
            return False
        return bool(super().has_delete_permission(request, obj))

    def _gateway(self, request: HttpRequest, obj: PaymentMethod | None) -> type[Gateway] | None:
        return KINDS.get(obj.kind if obj else request.GET.get("kind", ""))

    @display(description=gettext_lazy("gateway"), ordering="kind")
    def show_kind(self, method: PaymentMethod) -> str:
        """Its name, and a warning for the one that takes no money."""
        gateway = KINDS.get(method.kind)
        name = gateway.label if gateway else method.kind or "–"
        return format_html("{} {}", name, badge(TEST, "warning")) if gateway is SandboxGateway else str(name)

    @display(description=gettext_lazy("the gateway calls"))
    def show_notify_url(self, method: PaymentMethod) -> str:
        """What is to be entered there."""
        return notify_url(method)

    @display(description=gettext_lazy("the gateway's share"), ordering="fee_basis_points")
    def show_fee(self, method: PaymentMethod) -> str:
        """In percent."""
        return f"{method.fee_basis_points / 100:g} %" if method.fee_basis_points else "–"


def _warning(gateway: type[Gateway] | None) -> str:
    if gateway is not SandboxGateway:
        return ""
    return _("TEST: it takes no money, and orders are delivered all the same. Never offer it to real customers.")


def _currencies(gateway: type[Gateway]) -> str:
    return ", ".join(sorted(gateway.currencies)) or _("any currency")
