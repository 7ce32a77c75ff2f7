"""Money that waits for a person, and what was sold."""

from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.translation import gettext as _

from billing.admin.orders import held, to_confirm
from billing.admin.words import words_for
from billing.finance.days import operators_zone
from billing.finance.gathering import gather
from billing.finance.sums import NOTHING, Sums
from billing.models import CURRENCIES, Order, Refund, Transfer
from billing.services import stock_levels
from billing.services.ledger import today
from billing.services.setbacks import OPEN_DISPUTES
from derp_portal.lib import money
from derp_portal.lib.clock import start_of_day

from .shapes import SHOWN, Attention, Figure, Item, count_and_first, list_link, page_link

MAIN_CURRENCY = CURRENCIES[0][0]
"""That of the figures of money; amounts of several currencies are never added up."""
SPARK_DAYS = 30


def stuck_orders() -> Attention:
    stuck = Order.objects.filter(state=Order.State.PAID).exclude(trouble="").select_related("user", "channel")
    count, rows = count_and_first(stuck.order_by("paid_at"))
    return Attention(
        title=_("Paid orders that cannot be delivered"),
        icon="production_quantity_limits",
        link=list_link("billing_order", "waits=trouble"),
        count=count,
        items=[
            Item(
                f"{order.number} · {order.user or order.channel}",
                words_for(order.trouble),
                page_link("billing_order", order.pk),
                order.paid_at,
            )
            for order in rows
        ],
    )


def held_transfers() -> Attention:
    count, rows = count_and_first(held().select_related("payment__order__user").order_by("id"))
    return Attention(
        title=_("Money that does not fit"),
        icon="money_bag",
        link=list_link("billing_transfer", "state__exact=held"),
        count=count,
        items=[
            Item(
                f"{money.for_people(transfer.amount, transfer.currency)} · {transfer.payment.order}",
                words_for(transfer.problem),
                page_link("billing_transfer", transfer.pk),
                transfer.created_at,
            )
            for transfer in rows
        ],
    )


def disputes() -> Attention:
    disputed = Transfer.objects.filter(dispute__in=OPEN_DISPUTES).select_related("payment__order__user", "method")
    count, rows = count_and_first(disputed.order_by("id"))
    return Attention(
        title=_("Disputed payments"),
        icon="gavel",
        link=list_link("billing_transfer", "dispute__in=asked,open"),
        count=count,
        items=[
            Item(
                f"{money.for_people(transfer.amount, transfer.currency)} · {transfer.payment.order}",
                transfer.method.local_name,
                page_link("billing_transfer", transfer.pk),
                transfer.paid_at,
            )
            for transfer in rows
        ],
    )


def money_to_confirm() -> Attention:
    count, rows = count_and_first(to_confirm().select_related("order__user", "method").order_by("id"))
    return Attention(
        title=_("Money to confirm"),
        icon="price_check",
        link=list_link("billing_order", "waits=confirm"),
        count=count,
        items=[
            Item(
                f"{payment.amount_text} · {payment.order} · {payment.order.user}",
                _("%(method)s, with %(reference)s on it")
                % {"method": payment.method.local_name, "reference": payment.reference},
                page_link("billing_order", payment.order_id),
                payment.created_at,
            )
            for payment in rows
        ],
    )


def refunds_by_hand() -> Attention:
    by_hand = Refund.objects.filter(state=Refund.State.BY_HAND).select_related("order__user", "order__channel")
    count, rows = count_and_first(by_hand.order_by("id"))
    return Attention(
        title=_("Refunds to send by hand"),
        icon="currency_exchange",
        link=list_link("billing_refund", "state__exact=by_hand"),
        count=count,
        items=[
            Item(
                f"{money.for_people(refund.amount, refund.currency)} · {refund.order.user or refund.order.channel}",
                words_for(refund.problem),
                page_link("billing_refund", refund.pk),
                refund.created_at,
            )
            for refund in rows
        ],
    )


def low_stock() -> Attention:
    low = [level for level in stock_levels() if level.is_low and not level.channel.makes_serials]
    return Attention(
        title=_("Outside shops that run out of serials"),
        icon="inventory",
        link=list_link("billing_saleschannel"),
        count=len(low),
        items=[
            Item(
                level.channel.name,
                _("%(plan)s: %(count)s left") % {"plan": level.plan, "count": level.left},
                page_link("billing_saleschannel", level.channel.pk),
            )
            for level in sorted(low, key=lambda level: level.left)[:SHOWN]
        ],
    )


def money_figures() -> list[Figure]:
    """Of the main currency, by the operator's days."""
    day = today()
    month = day.replace(day=1)
    days = [day - timedelta(days=back) for back in reversed(range(SPARK_DAYS))]
    of_days = gather(min(month, days[0]), day, MAIN_CURRENCY).of_days
    this_month = sum((sums for when, sums in of_days.items() if when >= month), NOTHING)
    this_day = of_days.get(day, NOTHING)
    open_orders = Order.objects.filter(state=Order.State.PENDING).count()
    paid_today = f"booked_day__gte={day}&booked_day__lt={day + timedelta(days=1)}"
    books = reverse("admin:billing_finance")
    return [
        Figure(_("Sold today"), _amount(this_day.gross), books, _given_back(this_day)),
        Figure(
            _("Sold this month"),
            _amount(this_month.gross),
            books,
            _("the line: the last %(count)s days") % {"count": SPARK_DAYS},
            _spark([of_days.get(one, NOTHING).gross for one in days]),
        ),
        Figure(_("Orders paid today"), str(this_day.orders), list_link("billing_order", paid_today)),
        Figure(_("Orders to be paid"), str(open_orders), list_link("billing_order", "state__exact=pending")),
        Figure(
            _("Given back this month"),
            _amount(this_month.refunds),
            list_link("billing_refund", urlencode({"created_at__gte": start_of_day(month, operators_zone())})),
        ),
    ]


def _amount(minor: int) -> str:
    return money.for_people(minor, MAIN_CURRENCY)


def _given_back(sums: Sums) -> str:
    return _("%(amount)s given back") % {"amount": _amount(sums.refunds)} if sums.refunds else ""


def _spark(values: list[int]) -> str:
    """A line from left to right, the highest value at the top; "" where there is nothing to see."""
    top = max(values)
    if top <= 0:
        return ""
    return "M" + " L".join(f"{step} {100 - max(value, 0) * 100 // top}" for step, value in enumerate(values))
