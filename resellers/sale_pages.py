"""Sales: what a reseller got for the serials of their stock, by hand or from a table."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.tables import configured
from billing.services.ledger import today
from derp_portal.lib.errors import PortalError
from resellers import selectors, services
from resellers.access import reseller_for, sold_for
from resellers.forms import ImportForm, SaleFilter, SaleForm
from resellers.tables import SaleTable
from serials.codes import grouped

BATCHES_SHOWN = 6
MONTHS_SHOWN = 6
EXAMPLE = "code,price,customer,date,note\nABCD-EFGH-JKMN-PQRS-TVWX-YZ23,25.00,Mr Li,2026-11-25,by WeChat"


@login_required
@never_cache
@require_safe
def sales(request: HttpRequest) -> HttpResponse:
    """What was sold, for how much, and what was left: by serial, by order, by month."""
    reseller = reseller_for(signed_in(request))
    found = SaleFilter(request.GET, queryset=selectors.sales_of(reseller))
    context = {
        "filter": found,
        "table": configured(SaleTable(found.qs), request, is_long=True),
        "months": list(selectors.sales_by_month(reseller).items())[:MONTHS_SHOWN],
        "batches": selectors.batches_of(reseller, most=BATCHES_SHOWN),
    }
    return render(request, "resellers/sales.html", context)


@login_required
@never_cache
def sale(request: HttpRequest) -> HttpResponse:
    """Record one sale; `code` in the address names the serial. Recording it again corrects it."""
    reseller = reseller_for(signed_in(request))
    code = request.GET.get("code", "")[:200]
    form = SaleForm(request.POST or None, initial={"sold_on": today()} | selectors.sale_to_edit(reseller, code))
    if request.method == "POST" and form.is_valid():
        try:
            services.record_sales(reseller=reseller, sales=[form.sale()], actor=signed_in(request))
        except PortalError as error:
            form.add_error("code", str(error))
        else:
            messages.success(request, _("The sale is recorded."))
            return redirect("reseller_sales")
    return render(request, "resellers/sale.html", {"form": form, "recorded": selectors.sale_of(reseller, code)})


@login_required
@never_cache
def remove_sale(request: HttpRequest, serial_id: int) -> HttpResponse:
    """Ask, then strike out what was recorded of the sale of that serial."""
    reseller = reseller_for(signed_in(request))
    sold = sold_for(reseller, serial_id)
    recorded = selectors.sale_of(reseller, sold.serial.code)
    if recorded is None:
        messages.info(request, _("No sale of this serial number is recorded."))
        return redirect("reseller_sales")
    if request.method == "POST":
        services.remove_sale(reseller=reseller, code=sold.serial.code, actor=signed_in(request))
        messages.success(request, _("The sale is removed."))
        return redirect("reseller_sales")
    context = {"recorded": recorded, "code": grouped(sold.serial.code)}
    return render(request, "resellers/sale_remove.html", context)


@login_required
@never_cache
def sales_import(request: HttpRequest) -> HttpResponse:
    """Record many sales at once: all of them, or none and the line that is wrong."""
    reseller = reseller_for(signed_in(request))
    form = ImportForm(request.POST or None, request.FILES or None)
    wrong = None
    if request.method == "POST" and form.is_valid():
        said = form.cleaned_data
        try:
            found = services.sales_of_csv(said["text"], currency=said["currency"], day=today())
            count = services.record_sales(reseller=reseller, sales=found, actor=signed_in(request))
        except PortalError as error:
            form.add_error(None, str(error))
            wrong = form.line_about(error)
        else:
            done = ngettext("%(count)s sale is recorded.", "%(count)s sales are recorded.", count)
            messages.success(request, done % {"count": count})
            return redirect("reseller_sales")
    return render(request, "resellers/sales_import.html", {"form": form, "wrong": wrong, "example": EXAMPLE})
