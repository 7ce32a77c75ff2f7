"""A customer's orders: what became of them, how they are paid, what they delivered."""

from __future__ import annotations

import re
from typing import Any

import segno
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from accounts.access import signed_in
from accounts.tables import configured
from billing import selectors, services
from billing.access import order_for, payment_for
from billing.forms import OrderFilter
from billing.models import Payment, PaymentMethod
from billing.paper import receipt_pdf
from billing.tables import OrderTable
from derp_portal.lib.errors import PortalError

SHOWN_ONE_BY_ONE = 20
"""More serial numbers than these are one block to copy."""
NOTHING_NEW = 204
PHONE = re.compile(r"Mobi|Android|iPhone|iPad|HarmonyOS", re.IGNORECASE)


@login_required
@require_safe
def orders(request: HttpRequest) -> HttpResponse:
    """The orders one has placed."""
    found = OrderFilter(request.GET, queryset=selectors.orders_of(signed_in(request)))
    table = configured(OrderTable(found.qs), request)
    return render(request, "billing/orders.html", {"filter": found, "table": table})


@login_required
@never_cache
@require_safe
def order(request: HttpRequest, number: str) -> HttpResponse:
    """Everything about one order, the serial numbers it delivered included."""
    found = order_for(signed_in(request), number)
    card = selectors.order_card(found)
    codes = services.codes_of(found) if card.has_codes else []
    context = {
        "card": card,
        "order": found,
        "methods": services.offered_methods(found.currency) if card.can_be_paid else [],
        "transfers": _transfers(card) if card.can_be_paid else [],
        "codes": codes,
        "codes_text": "\n".join(codes),
        "shown_one_by_one": SHOWN_ONE_BY_ONE,
        "redeem_url": request.build_absolute_uri(reverse("redeem")),
    }
    return render(request, "billing/order.html", context)


def _transfers(card: selectors.OrderCard) -> list[dict[str, Any]]:
    found = [(payment, selectors.instructions_of(payment.method)) for payment in card.open_payments]
    return [{"payment": payment, "instructions": text} for payment, text in found if text]


@never_cache
@require_safe
def order_live(request: HttpRequest, number: str) -> HttpResponse:
    """Nothing while the order is what it was; else its page is asked to load again. `have` says what the page shows."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    card = selectors.order_card(order_for(signed_in(request), number))
    if request.GET.get("have") == card.version:
        return HttpResponse(status=NOTHING_NEW)
    return HttpResponse(headers={"HX-Refresh": "true"})


@login_required
def order_cancel(request: HttpRequest, number: str) -> HttpResponse:
    """Ask, then give up an order that is not paid."""
    found = order_for(signed_in(request), number)
    if request.method == "POST":
        try:
            services.cancel_order(order_id=found.pk, actor=signed_in(request))
        except PortalError as error:
            messages.error(request, str(error))
        else:
            messages.success(request, _("The order is cancelled."))
        return redirect("order", found.number)
    card = selectors.order_card(found)
    if not card.can_be_cancelled:
        messages.info(request, _("This order cannot be cancelled any more."))
        return redirect("order", found.number)
    return render(request, "billing/order_cancel.html", {"card": card, "order": found})


@login_required
@never_cache
@require_safe
def order_receipt(request: HttpRequest, number: str) -> HttpResponse:
    """The receipt of a paid order, as PDF."""
    found = order_for(signed_in(request), number)
    headers = {"Content-Disposition": f'attachment; filename="receipt-{found.number}.pdf"'}
    return HttpResponse(receipt_pdf(found), content_type="application/pdf", headers=headers)


# --- paying -------------------------------------------------------------------------------------------


@login_required
@require_POST
def order_pay(request: HttpRequest, number: str, method: str) -> HttpResponse:
    """Begin to pay by a method, or go on with what was begun.

    The gateway's own page is linked from ours: our policy does not let a form be answered by somebody else.
    """
    found = order_for(signed_in(request), number)
    chosen = get_object_or_404(PaymentMethod, code=method)
    try:
        payment = services.start_payment(
            order_id=found.pk, method=chosen, is_mobile=is_phone(request), actor=signed_in(request)
        )
    except PortalError as error:
        messages.error(request, str(error))
        return redirect("order", found.number)
    return redirect("order_payment", found.number, payment.reference)


def is_phone(request: HttpRequest) -> bool:
    """Whether the browser says that it runs on one: some gateways then open their app."""
    return PHONE.search(request.headers.get("User-Agent", "")) is not None


@login_required
@never_cache
@require_safe
def order_payment(request: HttpRequest, number: str, reference: str) -> HttpResponse:
    """How to pay, and waiting until the money has come. Gateways send the payer's browser back here."""
    payment = payment_for(signed_in(request), number, reference)
    if payment.state != Payment.State.OPEN:
        if payment.state == Payment.State.CLOSED and payment.order.state == payment.order.State.PENDING:
            messages.warning(request, _("This payment did not come about. You can pay in another way, or try again."))
        return redirect("order", payment.order.number)
    context = {
        "payment": payment,
        "order": payment.order,
        "card": selectors.order_card(order_for(signed_in(request), number)),
        "instructions": selectors.instructions_of(payment.method),
        "qr": qr_image(payment.qr_text) if payment.qr_text else "",
        "is_link": payment.qr_text.startswith("https://"),
    }
    return render(request, "billing/payment.html", context)


def qr_image(text: str) -> str:
    """The text as a QR code, in a data URI."""
    return str(segno.make(text, error="m", micro=False).svg_data_uri(scale=4, border=2, dark="#000", light="#fff"))


@never_cache
@require_safe
def order_payment_live(request: HttpRequest, number: str, reference: str) -> HttpResponse:
    """Nothing while the payment is open; then the browser is sent to the order."""
    if not request.user.is_authenticated:
        return HttpResponse(status=401, headers={"HX-Refresh": "true"})
    payment = payment_for(signed_in(request), number, reference)
    if payment.state == Payment.State.OPEN:
        return HttpResponse(status=NOTHING_NEW)
    # The page of a payment that is over says what is to be said, and leads on.
    return HttpResponse(headers={"HX-Redirect": reverse("order_payment", args=[number, reference])})
