"""What the codes in orders, payments and callbacks mean, for the people who must decide."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from derp_portal.lib import money

WORDS: dict[str, Promise] = {
    # money that does not fit
    "partial": _("Less came than the order costs."),
    "over": _("More came than the order costs."),
    "other_currency": _("It came in another currency."),
    "paid_before": _("The order was paid before."),
    "too_old": _("It came very late: the payment was begun long ago."),
    "cancelled": _("The order was cancelled before."),
    "coupon_first_order_only": _("It came late, and the coupon was for a first order only."),
    "coupon_used": _("It came late, and the customer has used the coupon elsewhere."),
    "coupon_used_up": _("It came late, and the coupon has been used up."),
    "per_user_limit": _("It came late, and the customer has bought as many as one account may."),
    "trial_used": _("It came late, and the customer has had the trial elsewhere."),
    # payments that came to nothing
    "closed_by_gateway": _("The gateway has closed it."),
    "not_paid": _("It was not paid in time."),
    "never_heard": _("The gateway never said what became of it."),
    # orders that cannot be delivered, or not as ordered
    "lease_ended": _("The lease that it was for has ended."),
    "released": _("The lease that it was for is gone, and its relays with it."),
    "no_limit": _("The traffic of the lease is not limited any more."),
    "lease_not_found": _("The lease that it was for is gone; the customer has the code instead."),
    "lease_released": _("The lease that it was for is gone; the customer has the code instead."),
    # callbacks
    "malformed": _("It has not the shape of this gateway's callbacks."),
    "bad_signature": _("The signature is wrong."),
    "stale": _("It was signed too long ago."),
    "other_merchant": _("It is for another account."),
    "unsupported": _("It says nothing about payments."),
    "unknown_payment": _("We know no such payment."),
    "other_method": _("It is about a payment by another method on the same account, which is called itself."),
    "other_payment": _("The same transaction was counted for another payment."),
    # refunds
    "by_hand": _("This way to pay cannot give money back by itself."),
    "bounced": _("The gateway had sent it, but it did not arrive: send the money another way."),
}


def words_for(code: str) -> str:
    """What the code means; the code itself where there is no word for it."""
    return str(WORDS.get(code, code))


def amount(minor: int, currency: str) -> str:
    """For people; "–" for nothing."""
    return money.for_people(minor, currency) if minor else "–"
