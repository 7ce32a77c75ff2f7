"""Stock: what was bought wholesale, giving it back, buying more, and the balance it is paid from."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext, pgettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.tables import configured
from billing.forms import OrderForm
from billing.models import CURRENCIES, SoldSerial
from billing.selectors import order_of_key
from billing.services import quote
from derp_portal.lib import money
from derp_portal.lib.errors import PortalError
from derp_portal.lib.ids import id_in
from derp_portal.lib.spreadsheets import BYTE_ORDER_MARK, safe_cell
from derp_portal.lib.wording import enumeration
from resellers import selectors, services
from resellers.access import reseller_for
from resellers.forms import BuyForm, RecallForm, StockFilter, TopUpForm
from resellers.models import Reseller
from resellers.tables import StockTable
from serials.codes import grouped

MOST_AT_ONCE = 1000
"""Serials given back in one go."""
CHUNK = 500
DEFAULT_CURRENCY = CURRENCIES[0][0]


def _filtered(request: HttpRequest, reseller: Reseller, found: QuerySet[SoldSerial]) -> StockFilter:
    return StockFilter(request.GET, queryset=found, plans=selectors.stock_plans(reseller))


@login_required
@never_cache
@require_safe
def stock(request: HttpRequest) -> HttpResponse:
    """The serials the reseller has bought wholesale."""
    reseller = reseller_for(signed_in(request))
    found = _filtered(request, reseller, services.stock_of(reseller))
    table = configured(StockTable(found.qs), request, is_long=True)
    shown = [row.record for row in table.paginated_rows]
    context = {
        "filter": found,
        "table": table,
        "count": selectors.stock_count(reseller),
        "recallable": selectors.recallable_among(reseller, shown),
        "of_list": _filtered(request, reseller, services.recallable(reseller)).qs.count(),
        "recall_days": reseller.level.recall_days,
        "query": request.GET.urlencode(),
    }
    return render(request, "resellers/stock.html", context)


class _Line:
    """A file for csv.writer that hands each line straight back."""

    def write(self, line: str) -> str:
        return line


@login_required
@never_cache
@require_safe
def export(request: HttpRequest) -> StreamingHttpResponse:
    """The stock as a table for spreadsheets, narrowed as its page is."""
    reseller = reseller_for(signed_in(request))
    found = _filtered(request, reseller, services.stock_of(reseller)).qs
    services.note_export(reseller=reseller, count=found.count(), actor=signed_in(request))
    response = StreamingHttpResponse(_csv_of(found), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="stock.csv"'
    return response


def _csv_of(found: QuerySet[SoldSerial]) -> Iterator[str]:
    writer = csv.writer(_Line())
    number, amount = pgettext("serial number", "code"), pgettext("amount", "paid")
    first = (number, _("state"), _("plan"), _("days"), _("order"), amount, _("currency"))
    second = (_("sold on"), _("sold for"), _("currency of the sale"), _("customer"), _("note"))
    yield BYTE_ORDER_MARK + writer.writerow([safe_cell(cell) for cell in (*first, *second)])
    for sold in found.iterator(chunk_size=CHUNK):
        yield writer.writerow([safe_cell(cell) for cell in (*_bought(sold), *_resold(sold))])


def _bought(sold: SoldSerial) -> list[Any]:
    serial, order = sold.serial, sold.line.order
    state = selectors.STOCK_STATES[selectors.stock_state(sold)]
    amount = money.to_text(sold.cost, order.currency)
    return [
        grouped(serial.code),
        state,
        serial.plan.local_name,
        serial.duration_days,
        order.number,
        amount,
        order.currency,
    ]


def _resold(sold: SoldSerial) -> list[Any]:
    resale = getattr(sold, "resale", None)
    if resale is None:
        return [""] * 5
    price = money.to_text(resale.price, resale.currency)
    return [resale.sold_on.isoformat(), price, resale.currency, resale.customer, resale.note]


# --- giving back ------------------------------------------------------------------------------------


@login_required
@never_cache
def recall(request: HttpRequest) -> HttpResponse:
    """Ask, then give back the serials that were marked, or all of the list that can be."""
    reseller = reseller_for(signed_in(request))
    if request.method != "POST":
        return redirect("reseller_stock")
    wanted = _marked(request, reseller)
    if "confirm" in request.POST:
        try:
            refunds = services.recall(reseller=reseller, serial_ids=wanted, actor=signed_in(request))
        except PortalError as error:
            messages.error(request, str(error))
        else:
            back = enumeration(money.for_people(refund.amount, refund.currency) for refund in refunds)
            done = ngettext(
                "%(count)s serial number is given back. %(amount)s comes back to you.",
                "%(count)s serial numbers are given back. %(amount)s comes back to you.",
                len(wanted),
            )
            messages.success(request, done % {"count": len(wanted), "amount": back})
        return redirect("reseller_stock")
    plan = selectors.recall_plan(reseller, wanted)
    if not plan.count:
        messages.info(request, _("Nothing that can be given back was marked."))
        return redirect("reseller_stock")
    form = RecallForm(initial={"serial": plan.serial_ids})
    return render(request, "resellers/recall.html", {"plan": plan, "form": form, "left_out": len(wanted) - plan.count})


def _marked(request: HttpRequest, reseller: Reseller) -> list[int]:
    if "all" in request.POST:
        found = _filtered(request, reseller, services.recallable(reseller)).qs
        return list(found.values_list("serial_id", flat=True)[:MOST_AT_ONCE])
    marked = {number for text in request.POST.getlist("serial") if (number := id_in(text)) is not None}
    return sorted(marked)[:MOST_AT_ONCE]


# --- buying -----------------------------------------------------------------------------------------


def _wished_currency(request: HttpRequest, currencies: list[str]) -> str:
    wished = request.POST.get("currency") or request.GET.get("currency") or ""
    return wished if wished in currencies else next(iter(currencies), DEFAULT_CURRENCY)


@login_required
@never_cache
@require_safe
def prices(request: HttpRequest) -> HttpResponse:
    """What each plan costs in number, what the shop asks for it, and what the shop's sales earn."""
    reseller = reseller_for(signed_in(request))
    currencies = selectors.wholesale_currencies(reseller)
    currency = _wished_currency(request, currencies)
    rows = selectors.wholesale_list(reseller, currency)
    context = {"reseller": reseller, "rows": rows, "currency": currency, "currencies": currencies}
    return render(request, "resellers/prices.html", context)


@login_required
@never_cache
def buy(request: HttpRequest) -> HttpResponse:
    """Price what is chosen, and order it once that price has been on the page."""
    reseller, me = reseller_for(signed_in(request)), signed_in(request)
    currencies = selectors.wholesale_currencies(reseller)
    currency = _wished_currency(request, currencies)
    rows = [row for row in selectors.wholesale_list(reseller, currency) if row.tiers]
    balance = selectors.balances_of(me).get(currency, 0)
    form = BuyForm(request.POST or _first_look(request, rows, balance), rows=rows)
    is_ordering = request.POST.get("step") == "order"
    if is_ordering and (known := order_of_key(me, form.key)):
        return redirect("order", known.number)  # A double click, or the same page sent again.
    priced = None
    if rows and form.is_valid():
        try:
            priced = quote(user=me, items=form.items(), currency=currency)
            if is_ordering and form.has_shown(priced.total):
                [item] = form.items()
                order = services.buy_stock(
                    reseller=reseller,
                    plan=item.plan,  # type: ignore[arg-type]
                    quantity=item.quantity,
                    currency=currency,
                    from_balance=form.is_from_balance,
                    client_key=form.key,
                )
                return redirect("order", order.number)
        except PortalError as refusal:
            form.refuse(refusal)
        else:
            if is_ordering:
                form.add_error(None, _("This is the price now. Nothing has been ordered yet: look at it, then order."))
    context = {
        "form": form,
        "priced": priced,
        "rows": rows,
        "currency": currency,
        "currencies": currencies,
        "balance": balance,
    }
    is_part = getattr(request, "htmx", False) and request.method == "POST"
    return render(request, "resellers/buy_live.html" if is_part else "resellers/buy.html", context)


def _first_look(request: HttpRequest, rows: list[selectors.PriceRow], balance: int) -> dict[str, Any]:
    codes = [row.plan.code for row in rows]
    wished = request.GET.get("plan", "")
    row = next((row for row in rows if row.plan.code == wished), rows[0] if rows else None)
    return {
        "plan": wished if wished in codes else next(iter(codes), ""),
        "quantity": row.tiers[0].from_quantity if row else 1,
        "pay": BuyForm.BALANCE if balance > 0 else BuyForm.ORDER,
        "client_key": OrderForm.new_key(),
    }


@login_required
@never_cache
def top_up(request: HttpRequest) -> HttpResponse:
    """Order a prepaid balance; what there is, and what it is for."""
    reseller, me = reseller_for(signed_in(request)), signed_in(request)
    currencies = selectors.wholesale_currencies(reseller) or [DEFAULT_CURRENCY]
    first = {"client_key": OrderForm.new_key(), "currency": _wished_currency(request, currencies)}
    form = TopUpForm(request.POST or None, initial=first, currencies=currencies)
    if request.method == "POST" and form.is_valid():
        try:
            order = services.top_up(
                reseller=reseller,
                amount=form.cleaned_data["minor"],
                currency=form.cleaned_data["currency"],
                client_key=form.key,
            )
        except PortalError as error:
            form.add_error("amount", str(error))
        else:
            return redirect("order", order.number)
    balances = [money.for_people(amount, code) for code, amount in sorted(selectors.balances_of(me).items())]
    return render(request, "resellers/top_up.html", {"form": form, "balances": balances})
