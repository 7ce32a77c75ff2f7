"""Transfers: nothing is automatic, and nothing is believed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from billing.gateways.base import (
    CallbackRefused,
    Demand,
    Gateway,
    Notice,
    Opened,
    Outcome,
    RawCallback,
    RefundDemand,
    Rejected,
)
from billing.gateways.offline import OfflineGateway

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
TRANSFER: Gateway = OfflineGateway({"instructions": "Bank of Nowhere, 12-34-56"})


def test_a_transfer_opens_nothing_stays_pending_and_is_never_closed_by_us() -> None:
    demand = Demand("R1", 1234, "EUR", "Relays", NOW + timedelta(days=3), "https://p.example/r", "https://p.example/n")
    assert TRANSFER.start(demand) == Opened()
    assert TRANSFER.query("R1") == Notice("R1", Outcome.PENDING)
    TRANSFER.close("R1")


def test_nobody_can_tell_us_that_a_transfer_was_made() -> None:
    with pytest.raises(CallbackRefused) as refusal:
        TRANSFER.read_callback(RawCallback("POST", {}, b"out_trade_no=R1", "", NOW))
    assert refusal.value.code == "unsupported"
    assert TRANSFER.answer(is_taken=False).status == 404


def test_a_person_gives_a_transfer_back() -> None:
    with pytest.raises(Rejected) as refusal:
        TRANSFER.refund(RefundDemand("F1", "R1", "", 100, 100, "EUR"))
    assert refusal.value.code == "by_hand"
    assert (TRANSFER.is_automatic, TRANSFER.can_refund, TRANSFER.currencies) == (False, False, frozenset())


@pytest.mark.parametrize("settings", [{}, {"instructions": "  "}, {"instructions_zh": "银行"}])
def test_instructions_are_needed(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Instructions"):
        OfflineGateway(settings)


def test_instructions_are_in_the_payers_language_if_there_are_any() -> None:
    both = OfflineGateway({"instructions": "Pay here", "instructions_zh": "付这里"})
    assert [both.instructions(language) for language in ("en", "zh-hans", "de")] == ["Pay here", "付这里", "Pay here"]
    assert OfflineGateway({"instructions": "Pay here"}).instructions("zh-hans") == "Pay here"
    assert all(not field.is_secret and field.is_long for field in OfflineGateway.fields)
