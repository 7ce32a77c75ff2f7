"""What a reseller earns: customers, commissions, settlements."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from accounts.access import signed_in
from accounts.tables import configured
from resellers import selectors
from resellers.access import earner_for, reseller_for, settlement_for
from resellers.forms import CommissionFilter
from resellers.paper import statement_pdf
from resellers.tables import CommissionTable, CustomerTable, SettlementTable, SoldLeaseTable


@login_required
@require_safe
def customers(request: HttpRequest) -> HttpResponse:
    """Who came by the reseller's link, and whose leases began with a serial of theirs. Nobody is named in full."""
    reseller = reseller_for(signed_in(request))
    table = configured(CustomerTable(selectors.customers_in_full(reseller), prefix="customers-"), request)
    on_page = [row.record.user_id for row in table.paginated_rows]
    table.amounts = selectors.earned_by_customer(reseller, on_page)
    leases = configured(SoldLeaseTable(selectors.leases_sold_by(reseller), prefix="leases-"), request)
    return render(request, "resellers/customers.html", {"table": table, "leases": leases})


@login_required
@require_safe
def commissions(request: HttpRequest) -> HttpResponse:
    """Every commission, and what refunds took back."""
    reseller = earner_for(signed_in(request))
    months = selectors.commission_months(reseller)
    found = CommissionFilter(request.GET, queryset=selectors.commissions_of(reseller), months=months)
    table = configured(CommissionTable(found.qs), request, is_long=True)
    context = {"filter": found, "table": table, "under_review": selectors.under_review(reseller)}
    return render(request, "resellers/commissions.html", context)


@login_required
@require_safe
def settlements(request: HttpRequest) -> HttpResponse:
    """What each month came to."""
    reseller = earner_for(signed_in(request))
    table = configured(SettlementTable(selectors.settlements_of(reseller)), request)
    context = {"reseller": reseller, "table": table, "earnings": selectors.earnings_of(reseller)}
    return render(request, "resellers/settlements.html", context)


@login_required
@require_safe
def settlement(request: HttpRequest, settlement_id: int) -> HttpResponse:
    """One month: its lines, what was carried in and out, and how far it has come."""
    found = settlement_for(earner_for(signed_in(request)), settlement_id)
    table = configured(CommissionTable(selectors.lines_of(found), exclude=("settle_month",)), request, is_long=True)
    context = {"settlement": found, "earlier": selectors.carried_into(found), "table": table}
    return render(request, "resellers/settlement.html", context)


@login_required
@never_cache
@require_safe
def statement(request: HttpRequest, settlement_id: int) -> HttpResponse:
    """The same on paper."""
    found = settlement_for(earner_for(signed_in(request)), settlement_id)
    name = f"statement-{found.month:%Y-%m}-{found.currency}.pdf"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(statement_pdf(found, shows_account=True), content_type="application/pdf", headers=headers)
