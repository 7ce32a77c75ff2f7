"""Everything that changes who resells, who earns and what is paid out."""

from .checking import check_commissions
from .commissions import accrue, clear, confirm
from .links import correct_attribution, count_click, read_reference, read_signups, reference_for
from .months import (
    approve_settlement,
    pay_settlement,
    reject_settlement,
    run_month,
    run_months,
    send_statements,
)
from .people import apply, approve, reject, set_level, suspend, update_reseller
from .wholesale import (
    Sale,
    buy_stock,
    last_day_of_sale,
    note_export,
    note_lease_contacts,
    reassign_lease,
    recall,
    recallable,
    record_sales,
    remove_sale,
    sales_of_csv,
    stock_of,
    top_up,
    worth_of_recalled,
)

__all__ = [
    "Sale",
    "accrue",
    "apply",
    "approve",
    "approve_settlement",
    "buy_stock",
    "check_commissions",
    "clear",
    "confirm",
    "correct_attribution",
    "count_click",
    "last_day_of_sale",
    "note_export",
    "note_lease_contacts",
    "pay_settlement",
    "read_reference",
    "read_signups",
    "reassign_lease",
    "recall",
    "recallable",
    "record_sales",
    "reference_for",
    "reject",
    "reject_settlement",
    "remove_sale",
    "run_month",
    "run_months",
    "sales_of_csv",
    "send_statements",
    "set_level",
    "stock_of",
    "suspend",
    "top_up",
    "update_reseller",
    "worth_of_recalled",
]
