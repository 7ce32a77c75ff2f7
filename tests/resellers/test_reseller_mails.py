"""What resellers are written: what staff decide about them, and that their payout account is another."""

from __future__ import annotations

import pytest

from accounts.models import User
from resellers import services
from resellers.models import Reseller
from tests.resellers.desk import ACCOUNT
from tests.resellers.trade import make_reseller
from tests.serials.shop import mails

pytestmark = pytest.mark.django_db


@pytest.fixture
def reseller(rita: User) -> Reseller:
    """rita, who earns 15 % of everything, at once."""
    return make_reseller(rita)


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_one_who_is_suspended_is_told_why_and_what_it_means(
    reseller: Reseller, rita: User, root: User, language: str
) -> None:
    User.objects.filter(pk=rita.pk).update(language=language)
    for _time in range(2):
        services.suspend(reseller_id=reseller.pk, reason="spam in forums", actor=root)
    [mail] = mails("reseller_suspended")
    assert mail.user == rita
    assert "rita" in mail.body_text
    assert "spam in forums" in mail.body_text
    assert "/reseller/" in mail.body_text
    if language == "en":
        assert "What you have earned stays yours and is settled as before" in mail.body_text


def test_one_who_is_reinstated_reads_of_that_and_not_of_an_approval(reseller: Reseller, rita: User, root: User) -> None:
    before = len(mails("reseller_approved"))
    services.suspend(reseller_id=reseller.pk, reason="spam in forums", actor=root)
    services.approve(reseller_id=reseller.pk, actor=root)
    [mail] = mails("reseller_reinstated")
    assert mail.user == rita
    assert mail.subject == "You are a reseller again"
    assert len(mails("reseller_approved")) == before


def test_another_payout_account_is_told_without_the_account(reseller: Reseller, rita: User) -> None:
    said = {"payout_kind": "bank", "payout_details": ACCOUNT}
    for _time in range(2):
        services.update_reseller(reseller_id=reseller.pk, actor=rita, **said)
    [mail] = mails("payout_changed")
    assert mail.user == rita
    assert "If it was not you" in mail.body_text
    assert ACCOUNT not in mail.body_text + mail.body_html + mail.subject
    assert ACCOUNT[-4:] not in mail.body_text

    services.update_reseller(reseller_id=reseller.pk, actor=rita, contact="rita@example.com")
    assert len(mails("payout_changed")) == 1
