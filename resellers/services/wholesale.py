"""Mode 2: stock bought wholesale, what it was resold for, what is given back, whose customers the leases are."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import follow_subject, record
from billing.models import Order, OrderLine, Refund, SoldSerial
from billing.services import pay_from_balance, place_order, refund_order
from billing.services.ledger import allocate, today
from billing.services.orders import locked_order
from billing.services.pricing import Item, price_at
from billing.services.refunds import lock_people
from derp_portal.lib import money
from derp_portal.lib.clock import now
from derp_portal.lib.errors import PortalError
from resellers.models import LeaseContact, Resale, Reseller
from serials.codes import canonical
from serials.models import Lease, LeaseTerm, Plan, SerialNumber
from serials.ticket_subjects import lease_subject

from .people import refuse

MOST_LINES_OF_CSV = 5000
BATCH = 500
SEPARATORS = ",;\t"
DAY = re.compile(r"([0-9]{4})[-/.]([0-9]{1,2})[-/.]([0-9]{1,2})")
"""As spreadsheets write days, in China with a slash and without zeros."""


@dataclass(frozen=True, slots=True)
class Sale:
    """What a reseller says of one sale: an amount in minor units of the currency."""

    code: str
    price: int
    currency: str
    sold_on: date
    customer: str = ""
    note: str = ""


def stock_of(reseller: Reseller) -> QuerySet[SoldSerial]:
    """Every serial the reseller has bought wholesale, newest first, with its plan, order and resale."""
    found = SoldSerial.objects.filter(line__kind=OrderLine.Kind.WHOLESALE, line__order__user=reseller.user_id)
    return found.select_related("serial__plan", "line__order", "resale").order_by("-id")


def buy_stock(
    *, reseller: Reseller, plan: Plan, quantity: int, currency: str, from_balance: bool, client_key: str = ""
) -> Order:
    """Order serials wholesale; from the balance they are paid at once, else the order waits to be paid as any other.

    Raises what `place_order` and `pay_from_balance` raise; then nothing was ordered.
    """
    if not reseller.is_active:
        raise refuse("not_a_reseller")
    with transaction.atomic():
        item = Item(OrderLine.Kind.WHOLESALE, plan=plan, quantity=quantity)
        order = place_order(
            user=reseller.user, items=[item], currency=currency, client_key=client_key, actor=reseller.user
        )
        if from_balance and order.state == Order.State.PENDING:
            order = pay_from_balance(order_id=order.pk, actor=reseller.user)
    return order


def top_up(*, reseller: Reseller, amount: int, currency: str, client_key: str = "") -> Order:
    """Order a prepaid balance; it is there once the order is paid."""
    if not reseller.is_active:
        raise refuse("not_a_reseller")
    item = Item(OrderLine.Kind.TOP_UP, amount=amount)
    return place_order(user=reseller.user, items=[item], currency=currency, client_key=client_key, actor=reseller.user)


def recallable(reseller: Reseller) -> QuerySet[SoldSerial]:
    """The serials of the stock that can be given back: unused, not resold, bought within the level's days."""
    days = reseller.level.recall_days
    return stock_of(reseller).filter(
        taken_back_at=None,
        resale=None,
        serial__status=SerialNumber.Status.UNUSED,
        line__order__paid_at__gt=now() - timedelta(days=days),
    )


def recall(*, reseller: Reseller, serial_ids: Sequence[int], actor: User) -> list[Refund]:
    """Give unsold serials back: they are revoked, and what was paid for them goes back the way it came.

    All or none. Raises PortalError `not_recallable` when one of them has been redeemed, resold or bought too long ago.
    """
    wanted = set(serial_ids)
    with transaction.atomic():
        _lock_stock(reseller, wanted)
        found = list(recallable(reseller).filter(serial__in=wanted))
        if not wanted or len(found) != len(wanted):
            raise PortalError(
                _("Some of these serials cannot be given back any more. Nothing was changed."),
                code="not_recallable",
                status=409,
            )
        by_order: dict[int, list[SoldSerial]] = {}
        for sold in found:
            by_order.setdefault(sold.line.order_id, []).append(sold)
        refunds = []
        for order_id, some in sorted(by_order.items()):
            amount = worth_of_recalled(order_id, some)
            if amount <= 0:
                raise PortalError(
                    _("What you would keep costs more at that quantity: nothing would go back."),
                    code="not_recallable",
                    status=409,
                )
            ids = [sold.serial_id for sold in some]
            refunds.append(refund_order(order_id=order_id, amount=amount, serial_ids=ids, reason="recall", actor=actor))
        record(actor=actor, event="stock.recalled", target=reseller, count=len(found))
    return refunds


def worth_of_recalled(order_id: int, some: Collection[SoldSerial]) -> int:
    """What goes back: what is left of the order's money, less what is kept of it at the price of that quantity.

    Nothing goes back where that is not more than nothing.
    """
    order = Order.objects.select_related("user").get(pk=order_id)
    lines = list(order.lines.all())
    paid = allocate(order.received, [line.amount for line in lines])
    worth = order.refundable
    for line, part in zip(lines, paid, strict=True):
        worth -= _price_of_kept(order, line, some) if line.kind == OrderLine.Kind.WHOLESALE else part
    return worth


def _price_of_kept(order: Order, line: OrderLine, some: Collection[SoldSerial]) -> int:
    """What the serials of the line that are not given back would have cost, had so few been ordered."""
    kept = line.sold.filter(taken_back_at=None).exclude(pk__in=[sold.pk for sold in some]).count()
    if not kept:
        return 0
    steps = line.snapshot.get("steps", [])
    amount = price_at(steps, kept)
    if amount is None:
        # So few were not sold at all.
        amount = min(steps)[1] if steps else 0
    return kept * max(amount, int(line.unit_amount))


def _lock_stock(reseller: Reseller, serial_ids: Collection[int]) -> None:
    """The people, the orders and then the serials, until the transaction ends: nobody redeems one meanwhile."""
    own = stock_of(reseller).filter(serial__in=serial_ids)
    orders = sorted(set(own.values_list("line__order_id", flat=True)))
    lock_people(orders=orders)
    for order_id in orders:
        locked_order(order_id)
    serials = SerialNumber.objects.filter(pk__in=own.order_by().values("serial_id")).order_by("pk")
    list(serials.select_for_update(no_key=True).values_list("pk", flat=True))


# --- what it was resold for -------------------------------------------------------------------------


def last_day_of_sale() -> date:
    """The last day that a sale may be of: where the reseller is, it may be tomorrow already."""
    return today() + timedelta(days=1)


def record_sales(*, reseller: Reseller, sales: Sequence[Sale], actor: User) -> int:
    """Write down sales of the reseller's own stock; a serial that was recorded before is written anew. All or none.

    Returns how many serials. Raises PortalError `not_your_stock` (404) naming the first code that is not theirs, or not
    any more: what was given back unsold cannot have been sold. `day_to_come` names the first of a day to come.
    """
    last = last_day_of_sale()
    for sale in sales:
        if sale.sold_on > last:
            wrong = _("The day of the sale of “%(code)s” has not come yet: %(day)s. Nothing was recorded.")
            raise PortalError(
                wrong % {"code": sale.code[:40], "day": sale.sold_on.isoformat()}, code="day_to_come", status=422
            )
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=reseller.user_id)
        wanted = stock_of(reseller).filter(serial__code__in=[canonical(sale.code) for sale in sales])
        own = {sold.serial.code: sold for sold in wanted.filter(Q(taken_back_at=None) | Q(resale__isnull=False))}
        rows: dict[int, Resale] = {}
        for sale in sales:
            sold = own.get(canonical(sale.code))
            if sold is None:
                raise PortalError(
                    _("“%(code)s” is not in your stock. Nothing was recorded.") % {"code": sale.code[:40]},
                    code="not_your_stock",
                    status=404,
                )
            rows[sold.pk] = Resale(
                sold=sold,
                customer=sale.customer.strip()[:120],
                price=sale.price,
                currency=sale.currency,
                sold_on=sale.sold_on,
                note=sale.note.strip()[:200],
            )
        Resale.objects.bulk_create(
            rows.values(),
            batch_size=BATCH,
            update_conflicts=True,
            unique_fields=["sold"],
            update_fields=["customer", "price", "currency", "sold_on", "note"],
        )
        record(actor=actor, event="stock.sales_recorded", target=reseller, count=len(rows))
    return len(rows)


def remove_sale(*, reseller: Reseller, code: str, actor: User) -> bool:
    """Strike out what was written down of a sale of the reseller's own stock. Twice is fine.

    Returns whether there was one. Raises PortalError `not_your_stock` (404).
    """
    with transaction.atomic():
        User.objects.select_for_update(no_key=True).get(pk=reseller.user_id)
        sold = stock_of(reseller).filter(serial__code=canonical(code)).first()
        if sold is None:
            raise PortalError(
                _("“%(code)s” is not in your stock. Nothing was changed.") % {"code": code[:40]},
                code="not_your_stock",
                status=404,
            )
        resale = Resale.objects.filter(sold=sold).first()
        if resale is None:
            return False
        resale.delete()
        record(
            actor=actor,
            event="stock.sale_removed",
            target=reseller,
            order=sold.line.order.number,
            price=resale.price,
            currency=resale.currency,
            sold_on=resale.sold_on,
        )
    return True


def sales_of_csv(text: str, *, currency: str, day: date) -> list[Sale]:
    """Sales from a table with the columns code, price, customer, date, note; the last three may be missing.

    Between them stand commas, semicolons or tabs: as in the first line. A first line that names the columns is passed
    over. Raises PortalError `invalid_csv` that names the line.
    """
    sales = []
    seen: dict[str, int] = {}
    for number, row in _lines_of_csv(text):
        cells = [cell.strip().lstrip("'") for cell in row] + [""] * 5
        if not any(cells) or (number == 1 and cells[0].lower() in ("code", "序列号")):
            continue
        if not (code := canonical(cells[0])):
            raise _bad_csv(number, _("the code is missing"))
        if code in seen:
            raise _bad_csv(number, _("this code is in line %(first)s already") % {"first": seen[code]})
        seen[code] = number
        sales.append(
            Sale(
                cells[0], _price(number, cells[1], currency), currency, _day(number, cells[3], day), cells[2], cells[4]
            )
        )
    if not sales:
        raise _bad_csv(1, _("there is no sale in it"))
    return sales


def _lines_of_csv(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of the line that it ends on."""
    text = text.lstrip("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_separator_of(text))
    try:
        for row in reader:
            if reader.line_num > MOST_LINES_OF_CSV:
                raise _bad_csv(MOST_LINES_OF_CSV + 1, _("too many lines"))
            yield reader.line_num, row
    except csv.Error as error:
        raise _bad_csv(reader.line_num, _("this cannot be read as a table")) from error


def _separator_of(text: str) -> str:
    """The one that comes first in the first line: there is none in a code, or in the name of its column."""
    is_text = "\x00" not in text and not text.startswith("PK\x03\x04")
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            found = [letter for letter in line if letter in SEPARATORS]
            if not found or not is_text:
                raise _bad_csv(
                    number, _("this is no table of text, with commas, semicolons or tabs between the columns")
                )
            return found[0]
    return SEPARATORS[0]


def _price(number: int, text: str, currency: str) -> int:
    try:
        price = money.to_minor(text, currency)
    except ValueError as error:
        words = _("“%(text)s” is not a price in %(currency)s") % {"text": text[:40], "currency": currency}
        raise _bad_csv(number, words) from error
    if price < 0:
        raise _bad_csv(number, _("the price is below zero"))
    return price


def _day(number: int, text: str, default: date) -> date:
    if numbers := DAY.fullmatch(text):
        text = "{}-{:0>2}-{:0>2}".format(*numbers.groups())
    try:
        day = date.fromisoformat(text) if text else default
    except ValueError as error:
        raise _bad_csv(number, _("“%(text)s” is not a date such as 2027-01-31") % {"text": text[:40]}) from error
    if day > last_day_of_sale():
        raise _bad_csv(number, _("the day %(day)s has not come yet") % {"day": day.isoformat()})
    return day


def _bad_csv(number: int, what: str) -> PortalError:
    message = _("Line %(number)s: %(what)s. Nothing was recorded.") % {"number": number, "what": what}
    return PortalError(message, code="invalid_csv", status=422, line=number)


def note_export(*, reseller: Reseller, count: int, actor: User) -> None:
    """Write down that so many codes of the stock were downloaded, by whom."""
    record(actor=actor, event="stock.exported", target=reseller, count=count)


# --- whose customers leases are ---------------------------------------------------------------------


def leases_from_stock() -> QuerySet[SoldSerial]:
    """Serials of wholesale stock that a lease began with and whose reseller is not noted yet, the first used first."""
    earlier = LeaseTerm.objects.filter(lease=OuterRef("serial__term__lease"), pk__lt=OuterRef("serial__term"))
    return SoldSerial.objects.filter(
        ~Exists(earlier),
        line__kind=OrderLine.Kind.WHOLESALE,
        serial__term__isnull=False,
        serial__term__lease__reseller_contact=None,
        line__order__user__reseller__isnull=False,
    ).order_by("serial__used_at", "id")


def note_lease_contacts() -> int:
    """Note the reseller of each lease that began with a serial of wholesale stock. Returns how many are new."""
    rows = leases_from_stock().values_list("serial__term__lease", "line__order__user__reseller")
    count = 0
    for lease_id, reseller_id in list(rows[:BATCH]):
        _contact, is_new = LeaseContact.objects.get_or_create(lease_id=lease_id, defaults={"reseller_id": reseller_id})
        count += is_new
    return count


def reassign_lease(*, lease_id: int, reseller: Reseller | None, reason: str, actor: User) -> LeaseContact:
    """Staff: whom the lease's customer is shown as their seller; None is the portal itself. Twice is fine.

    Its tickets go to the new seller, or to staff.
    """
    if not reason.strip():
        raise refuse("reason_needed")
    with transaction.atomic():
        # A ticket that is opened in this moment meets us at the customer's row and finds the new seller.
        customer_id = Lease.objects.values_list("user_id", flat=True).get(pk=lease_id)
        User.objects.select_for_update(no_key=True).get(pk=customer_id)
        _contact, is_new = LeaseContact.objects.get_or_create(lease_id=lease_id)
        contact = LeaseContact.objects.select_for_update(of=("self",), no_key=True).get(lease_id=lease_id)
        if not is_new and contact.reseller_id == (reseller.pk if reseller else None):
            return contact
        contact.reseller, contact.reason = reseller, reason.strip()[:200]
        contact.save(update_fields=["reseller", "reason"])
        record(
            actor=actor,
            event="lease.reseller_changed",
            target=contact.lease,
            reseller=reseller.code if reseller else "",
            reason=contact.reason,
        )
        follow_subject(about=lease_subject(lease_id), actor=actor)
    return contact
