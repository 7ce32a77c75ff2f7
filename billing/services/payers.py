"""Which account money came from: enough to know it again, and nothing that could be read.

Only a keyed hash is kept. It compares accounts of one kind of gateway and never turns back into an account; whoever
changes SECRET_KEY has forgotten all of them.
"""

from __future__ import annotations

import re
import unicodedata

from django.utils.crypto import salted_hmac

from accounts.models import User
from billing.models import Payment, Transfer

SALT = "billing.payer"
MASK = re.compile(r"[*∗•●·‧∙]|\d[x-]*xxx[x-]*\d")
FILLERS = frozenset({"null", "none", "undefined", "unknown", "anonymous", "n/a"})


def payer_digest(kind: str, payer: str) -> str:
    """64 hex digits for an account as gateways of this kind call it; "" where it is not known, or masked."""
    # People write it down with blanks, and in other letters than a gateway does.
    named = "".join(unicodedata.normalize("NFKC", payer).split()).casefold()
    # A name with stars in it is more than one account's, and so is a word that stands for none.
    if not named.strip("-0") or named in FILLERS or MASK.search(named):
        return ""
    return salted_hmac(SALT, f"{kind}:{named}", algorithm="sha256").hexdigest()


def is_payer_awaited(order_id: int) -> bool:
    """Whether the gateway is still being asked which account paid for the order. An hour at most."""
    paid = Payment.objects.filter(order=order_id, state=Payment.State.PAID)
    return paid.filter(next_query_at__isnull=False).exists()


def paid_from_one_account(a: User, b: User) -> bool:
    """Whether money for orders of both ever came from one and the same account. One query."""
    known = Transfer.objects.exclude(payer_digest="").order_by()
    of_other = known.filter(payment__order__user=b).values("payer_digest")
    return known.filter(payment__order__user=a, payer_digest__in=of_other).exists()
