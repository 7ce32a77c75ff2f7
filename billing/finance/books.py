"""Whether the books balance, and say the same as the documents they are of.

Every check is a single statement, so that what others write meanwhile cannot make one: a statement sees the database
as it was at one moment. However many rows there are, the number of statements is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from django.db.models import BigIntegerField, Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce
from django.utils.translation import gettext as _

from billing.models import Account, Order, OrderLine, Posting, Refund, SoldSerial, Transfer
from derp_portal.lib import money

from .balances import Turnover, turnovers
from .sums import SOLD, credited, of_accounts

MOST = 50
"""So many findings of one kind are told; whoever mends these sees the rest."""

EARNED = (*SOLD, Account.RESELLER_FUNDS)
"""Where money goes that an order received: a top-up's is the balance's."""

NEVER_PAID = (Order.State.PENDING, Order.State.CANCELLED, Order.State.EXPIRED)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that must not be: `code` is stable, `words` say what and where."""

    code: str
    words: str

    def __str__(self) -> str:
        return self.words


def check_books() -> list[Finding]:
    """Everything that is wrong with the books; nothing when all is well. Twelve statements over the whole ledger."""
    checks: tuple[Callable[[], Iterable[Finding]], ...] = (
        _trial_balance,
        _customer_funds,
        _refunds_due,
        _orders_and_lines,
        _orders_without_postings,
        _postings_without_order,
        _transfers,
        _fees,
        _sent_refunds,
        _deliveries,
        _undelivered_money,
        _never_paid,
    )
    return [finding for check in checks for finding in check()]


# --- balances ---------------------------------------------------------------------------------------


def _trial_balance() -> Iterable[Finding]:
    """All debits are all credits, in each currency."""
    sums: dict[str, Turnover] = {}
    for (currency, _account), turnover in turnovers().items():
        sums[currency] = sums.get(currency, Turnover()) + turnover
    for currency, both in sorted(sums.items()):
        if both.debits != both.credits:
            said = {
                "debits": money.to_text(both.debits, currency),
                "credits": money.to_text(both.credits, currency),
                "currency": currency,
            }
            words = _("Debits are %(debits)s and credits %(credits)s %(currency)s.") % said
            yield Finding("trial_balance", words)


def _customer_funds() -> Iterable[Finding]:
    """What customers have with us and what has not been counted: the held transfers, less what of them went back."""
    held = Transfer.objects.filter(state=Transfer.State.HELD)
    returned = Refund.objects.filter(kind=Refund.Kind.TRANSFER, transfer__state=Transfer.State.HELD)
    for currency, booked, documents in _unequal(Account.CUSTOMER_FUNDS, held, returned):
        said = _amounts(currency, booked, documents)
        words = _("Customers' money is %(booked)s in the books, but %(documents)s is held.") % said
        yield Finding("customer_funds", words)


def _refunds_due() -> Iterable[Finding]:
    """What was promised back and has not been sent."""
    due = Refund.objects.exclude(state=Refund.State.DONE)
    for currency, booked, documents in _unequal(Account.REFUNDS_DUE, due, None):
        said = _amounts(currency, booked, documents)
        words = _("Refunds to be sent are %(booked)s in the books, but %(documents)s is to be sent.") % said
        yield Finding("refunds_due", words)


def _unequal(account: Account, plus: QuerySet[Any], minus: QuerySet[Any] | None) -> list[tuple[str, int, int]]:
    """Currencies in which the account's balance is not what the documents add up to: both, in one statement."""
    booked = Posting.objects.filter(of_accounts(account)).order_by().values_list("currency")
    parts = [booked.annotate(is_booked=Value(True), sum=credited(account))]
    for documents, total in ((plus, Sum("amount")), (minus, -Sum("amount"))):
        if documents is not None:
            mine = documents.order_by().values_list("currency")
            parts.append(mine.annotate(is_booked=Value(False), sum=total))
    sums: dict[str, list[int]] = {}
    for currency, is_booked, amount in parts[0].union(*parts[1:], all=True):
        sums.setdefault(currency, [0, 0])[0 if is_booked else 1] += amount
    return [(currency, *pair) for currency, pair in sorted(sums.items()) if pair[0] != pair[1]]  # type: ignore[misc]


def _orders_and_lines() -> Iterable[Finding]:
    """What an order received is what was booked as earned, and what it gave back is what was promised back for it.

    Earned is what went to revenue, wholesale or (a top-up) to the balance; the same reversed is not. What a refund
    brought back to a balance is neither.
    """
    is_earned = Q(credit__in=EARNED, refund=None)
    is_reversed = Q(debit__in=EARNED, refund=None, reverses__isnull=False)
    is_back = Q(credit=Account.REFUNDS_DUE, debit__in=(Account.REFUNDS, Account.RESELLER_FUNDS))
    wrong = (
        Posting.objects.filter(is_earned | is_reversed | is_back, order__isnull=False)
        .order_by()
        .values("order__number", "order__received", "order__refunded", "order__currency")
        .annotate(
            sold=Sum("amount", filter=is_earned, default=0) - Sum("amount", filter=is_reversed, default=0),
            back=Sum("amount", filter=is_back, default=0),
            foreign=Count("pk", filter=~Q(currency=F("order__currency"))),
        )
        .filter(~Q(sold=F("order__received")) | ~Q(back=F("order__refunded")) | Q(foreign__gt=0))
    )
    for row in wrong[:MOST]:
        currency = row["order__currency"]
        said = {"number": row["order__number"]}
        if row["foreign"]:
            yield Finding("foreign_currency", _("Order %(number)s has postings in another currency.") % said)
        if row["sold"] != row["order__received"]:
            said |= _amounts(currency, row["sold"], row["order__received"])
            words = _("Order %(number)s received %(documents)s, but %(booked)s is booked as sold.") % said
            yield Finding("order_received", words)
        if row["back"] != row["order__refunded"]:
            said |= _amounts(currency, row["back"], row["order__refunded"])
            words = _("Order %(number)s gave back %(documents)s, but %(booked)s is booked as refunds.") % said
            yield Finding("order_refunded", words)


def _orders_without_postings() -> Iterable[Finding]:
    """Money that was counted for an order without the books knowing of it."""
    sale = Posting.objects.filter(order=OuterRef("pk"), credit__in=EARNED, refund=None)
    for number in Order.objects.filter(~Exists(sale), received__gt=0).values_list("number", flat=True)[:MOST]:
        words = _("Order %(number)s received money, but none is booked as sold.") % {"number": number}
        yield Finding("order_not_booked", words)


def _postings_without_order() -> Iterable[Finding]:
    """Sales and refunds are always those of an order."""
    loose = Posting.objects.filter(of_accounts(*SOLD, Account.REFUNDS), order=None)
    for key in loose.values_list("key", flat=True)[:MOST]:
        yield Finding("posting_without_order", _("Posting %(key)s names no order.") % {"key": key})


# --- money in and out -------------------------------------------------------------------------------


def _transfers() -> Iterable[Finding]:
    """Every transfer is booked once, with its amount."""
    came = Posting.objects.filter(
        transfer=OuterRef("pk"),
        debit=Account.CASH,
        credit=Account.CUSTOMER_FUNDS,
        amount=OuterRef("amount"),
        currency=OuterRef("currency"),
    )
    for pk, transaction_id in Transfer.objects.filter(~Exists(came)).values_list("pk", "transaction_id")[:MOST]:
        said = {"transaction": transaction_id, "id": pk}
        words = _("Transfer %(id)s (%(transaction)s) is not booked with its amount.") % said
        yield Finding("transfer_not_booked", words)


def _fees() -> Iterable[Finding]:
    """What gateways kept of transfers is booked as their fee."""
    kept = Posting.objects.filter(
        transfer=OuterRef("pk"), debit=Account.GATEWAY_FEES, credit=Account.CASH, currency=OuterRef("currency")
    )
    wrong = Transfer.objects.annotate(booked=_booked(kept, "transfer")).exclude(booked=F("fee"))
    for pk, transaction_id in wrong.values_list("pk", "transaction_id")[:MOST]:
        said = {"transaction": transaction_id, "id": pk}
        words = _("The fee of transfer %(id)s (%(transaction)s) is not booked with its amount.") % said
        yield Finding("fee_not_booked", words)


def _sent_refunds() -> Iterable[Finding]:
    """A refund that is done was sent, or went to the balance, once and whole; one that is not was not, or came back."""
    left = Posting.objects.filter(
        refund=OuterRef("pk"),
        debit=Account.REFUNDS_DUE,
        credit__in=(Account.CASH, Account.RESELLER_FUNDS),
        currency=OuterRef("currency"),
    )
    came_back = Posting.objects.filter(
        refund=OuterRef("pk"),
        debit=Account.CASH,
        credit=Account.REFUNDS_DUE,
        currency=OuterRef("currency"),
    )
    is_done = Q(state=Refund.State.DONE)
    booked = _booked(left, "refund") - _booked(came_back, "refund")
    wrong = Refund.objects.annotate(booked=booked).filter(
        (is_done & ~Q(booked=F("amount"))) | (~is_done & ~Q(booked=0))
    )
    for number in wrong.values_list("number", flat=True)[:MOST]:
        words = _("What was sent of refund %(number)s is not what the books say.") % {"number": number}
        yield Finding("refund_not_booked", words)


# --- what was delivered -----------------------------------------------------------------------------


def _deliveries() -> Iterable[Finding]:
    """Every line of a delivered order that is of a plan delivered as many serials as were ordered."""
    wrong = (
        OrderLine.objects.filter(order__state=Order.State.FULFILLED, plan__isnull=False)
        .order_by()
        .annotate(delivered=Count("sold"))
        .exclude(delivered=F("quantity"))
    )
    for number, quantity, delivered in wrong.values_list("order__number", "quantity", "delivered")[:MOST]:
        said = {"number": number, "quantity": quantity, "delivered": delivered}
        words = _("Order %(number)s is of %(quantity)s serials and delivered %(delivered)s.") % said
        yield Finding("delivered_count", words)


def _undelivered_money() -> Iterable[Finding]:
    """The parts of serials add up to what their line was booked with."""
    earned = Posting.objects.filter(line=OuterRef("pk"), credit__in=SOLD)
    wrong = (
        OrderLine.objects.filter(sold__isnull=False)
        .order_by()
        .annotate(shares=Sum("sold__amount"), booked=_booked(earned, "line"))
        .exclude(shares=F("booked"))
    )
    for number, currency, shares, amount in wrong.values_list("order__number", "order__currency", "shares", "booked")[
        :MOST
    ]:
        said = {"number": number, **_amounts(currency, amount, shares)}
        words = _("The serials of order %(number)s are worth %(documents)s, but %(booked)s is booked for them.") % said
        yield Finding("serial_shares", words)


def _never_paid() -> Iterable[Finding]:
    """Nothing was delivered that was not paid."""
    delivered = SoldSerial.objects.filter(line__order__state__in=NEVER_PAID)
    for number in delivered.order_by().values_list("line__order__number", flat=True).distinct()[:MOST]:
        words = _("Order %(number)s was never paid, and delivered serials.") % {"number": number}
        yield Finding("delivered_unpaid", words)


# --- parts of statements ----------------------------------------------------------------------------


def _booked(postings: QuerySet[Posting], by: str) -> Coalesce:
    """The sum of the postings, which name one row of the outer statement in the field `by`."""
    summed = postings.order_by().values(by).annotate(sum=Sum("amount")).values("sum")
    return Coalesce(Subquery(summed, output_field=BigIntegerField()), Value(0), output_field=BigIntegerField())


def _amounts(currency: str, booked: int, documents: int) -> dict[str, str]:
    return {
        "booked": f"{money.to_text(booked, currency)} {currency}",
        "documents": f"{money.to_text(documents, currency)} {currency}",
    }
