"""Money that comes without a gateway: a transfer with our reference on it, seen and confirmed by a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from billing.gateways.base import (
    CallbackAnswer,
    CallbackRefused,
    Demand,
    Notice,
    Opened,
    Outcome,
    RawCallback,
    RefundAnswer,
    RefundDemand,
    Rejected,
    SettingField,
)
from billing.gateways.wire import settings_of


class OfflineGateway:
    """By bank, or from one WeChat or Alipay account to another, in any currency.

    Nobody tells us of such a payment and nobody can be asked: it stays pending until a person confirms it, and a
    person gives it back.
    """

    kind: ClassVar[str] = "offline"
    label: ClassVar[Promise | str] = _("Transfer")
    fields: ClassVar[tuple[SettingField, ...]] = (
        SettingField(
            "instructions",
            _("Instructions"),
            _(
                "Where the money is to go: the account, its owner, the bank. The payer sees this beside the amount and "
                "the reference to write on the transfer."
            ),
            is_secret=False,
            is_long=True,
        ),
        SettingField(
            "instructions_zh",
            _("Instructions in Chinese"),
            _("Shown to those who read the portal in Chinese. Leave it empty to show them the others."),
            is_secret=False,
            is_long=True,
            is_required=False,
        ),
    )
    currencies: ClassVar[frozenset[str]] = frozenset()
    is_automatic: ClassVar[bool] = False
    can_refund: ClassVar[bool] = False
    knows_refunds: ClassVar[bool] = True
    names_payer_late: ClassVar[bool] = False

    def __init__(self, settings: Mapping[str, str]) -> None:
        given = settings_of(self.fields, settings)
        self._instructions, self._instructions_zh = given["instructions"], given["instructions_zh"]

    def instructions(self, language: str) -> str:
        """What the payer is to do, in the language if there are words in it."""
        is_chinese = language.lower().partition("-")[0] == "zh"
        return (self._instructions_zh if is_chinese else "") or self._instructions

    def start(self, demand: Demand) -> Opened:
        """Nothing to open: the page shows the instructions, the amount and the reference."""
        return Opened()

    def read_callback(self, callback: RawCallback) -> Notice:
        """Whoever calls is not a gateway."""
        raise CallbackRefused("unsupported")

    def answer(self, *, is_taken: bool) -> CallbackAnswer:
        """Only strangers read it."""
        return CallbackAnswer(404, "")

    def query(self, reference: str, *, gateway_id: str = "", currency: str = "") -> Notice:
        """Always pending."""
        return Notice(reference, Outcome.PENDING)

    def close(self, reference: str, *, gateway_id: str = "") -> bool:
        """Nothing to do: a transfer cannot be kept from arriving."""
        return False

    def refund(self, demand: RefundDemand) -> RefundAnswer:
        """Only a person can."""
        raise Rejected("by_hand")
