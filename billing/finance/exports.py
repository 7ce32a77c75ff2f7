"""A month's report as a file: CSV, a workbook, or paper."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from io import BytesIO, StringIO
from typing import Any, NamedTuple

from django.utils.translation import gettext as _
from openpyxl import Workbook
from openpyxl.cell import WriteOnlyCell
from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
from openpyxl.styles import Font
from openpyxl.utils import get_column_letter
from reportlab.platypus import Flowable

from billing import paper
from billing.models import Account
from derp_portal.lib import money
from derp_portal.lib.spreadsheets import BYTE_ORDER_MARK, safe_cell

from .days import operators_zone
from .reports import Report, name_of

Cell = str | int | Decimal | None
"""Amounts are decimal numbers in the currency's own unit, counts are whole numbers, the rest is words."""


@dataclass(frozen=True, slots=True)
class Section:
    """One table of a report."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    currency: str = ""
    """Of its amounts; empty for a table that has none."""

    @property
    def on_paper(self) -> list[list[str]]:
        """The rows as people read them."""
        return [[_paper_cell(cell, self.currency) for cell in row] for row in self.rows]


class Column(NamedTuple):
    """What a table says of each row."""

    title: str
    key: str
    is_amount: bool = True


class Format(NamedTuple):
    """A kind of file."""

    content_type: str
    make: Any


def sections(report: Report) -> Iterator[Section]:
    """The report's tables, in the reader's language: first what is of the whole portal, then currency by currency."""
    yield Section(_("The month"), (_("What"), _("How much")), _of_the_whole(report))
    for part in report["currencies"]:
        code = part["currency"]
        rows = [(column.title, _cell(part["totals"], column, code)) for column in _figures()]
        rows.append((_("Paying customers"), part["customers"]))
        rows.append((_("Net for each paying customer"), _amount(part["average"], code)))
        rows.append((_("Number of refunds"), part["refunds"]["count"]))
        rows.append((_("Money returned that was never counted"), _amount(part["refunds"]["not_counted"], code)))
        rows.append((_("Deferred revenue"), _amount(sum(row["amount"] for row in part["deferred"]), code)))
        yield Section(_("Figures"), (_("What"), _("How much")), rows, code)
        for title, name, key in (
            (_("By plan"), _("Plan"), "plans"),
            (_("By shop"), _("Shop"), "channels"),
            (_("By reseller"), _("Reseller"), "resellers"),
        ):
            # A payment's fee is of no plan.
            columns = [column for column in _figures() if key != "plans" or column.key != "fees"]
            yield _table(title, name, part[key], columns, code)
        yield _table(_("Money by payment method"), _("Payment method"), part["cash"], _ways(), code)
        yield _accounts(part["accounts"], code)
        deferred = (Column(_("Serials"), "serials", is_amount=False), Column(_("Deferred revenue"), "amount"))
        yield _table(_("Deferred revenue by plan"), _("Plan"), part["deferred"], deferred, code)
        days = [(row["day"], *(_cell(row, column, code) for column in _figures())) for row in part["days"]]
        yield Section(_("By day"), (_("Day"), *(column.title for column in _figures())), days, code)


def to_csv(report: Report) -> bytes:
    """All tables one below the other. Begins with a byte-order mark; no cell is taken for a formula."""
    file = StringIO()
    writer = csv.writer(file)
    file.write(BYTE_ORDER_MARK)
    writer.writerow([_("Report for"), report["month"]])
    for section in sections(report):
        writer.writerow([])
        writer.writerow(list(filter(None, (safe_cell(section.title), section.currency))))
        writer.writerow([safe_cell(cell) for cell in section.header])
        for row in section.rows:
            writer.writerow([safe_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return file.getvalue().encode()


def to_xlsx(report: Report) -> bytes:
    """A sheet for the whole portal and each currency; amounts are numbers that a spreadsheet can go on with."""
    book = Workbook(write_only=True)
    sheets: dict[str, Any] = {}
    for section in sections(report):
        name = section.currency or report["month"]
        sheet = sheets.get(name)
        if sheet is None:
            sheet = sheets[name] = book.create_sheet(name)
            sheet.column_dimensions["A"].width = 36
            for number in range(2, 14):
                sheet.column_dimensions[get_column_letter(number)].width = 16
        else:
            sheet.append([])
        sheet.append([_words(sheet, section.title, is_bold=True)])
        sheet.append([_words(sheet, cell, is_bold=True) for cell in section.header])
        for row in section.rows:
            sheet.append([_workbook_cell(sheet, cell, section.currency) for cell in row])
    file = BytesIO()
    book.save(file)
    return file.getvalue()


def to_pdf(report: Report) -> bytes:
    """The tables on paper."""
    story: list[Flowable] = []
    for section in sections(report):
        if not section.rows:
            continue
        title = f"{section.title} · {section.currency}" if section.currency else section.title
        story.append(paper.heading(title))
        share = 0.6 if len(section.header) == 2 else 0.3 if len(section.header) < 9 else 0.18
        story.append(paper.table(section.header, section.on_paper, share=share))
    return paper.document(_("Report for %(month)s") % {"month": report["month"]}, story, foot=report["month"])


FORMATS = {
    "csv": Format("text/csv; charset=utf-8", to_csv),
    "xlsx": Format("application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", to_xlsx),
    "pdf": Format("application/pdf", to_pdf),
}


def file_name(report: Report, kind: str) -> str:
    """What the file is called when it is saved."""
    return f"report-{report['month']}.{kind}"


# --- tables -----------------------------------------------------------------------------------------


def _figures() -> tuple[Column, ...]:
    return (
        Column(_("Revenue"), "revenue"),
        Column(_("Wholesale"), "wholesale"),
        Column(_("Refunds"), "refunds"),
        Column(_("Net"), "net"),
        Column(_("Fees"), "fees"),
        Column(_("Orders"), "orders", is_amount=False),
        Column(_("Units"), "units", is_amount=False),
        Column(_("Renewals"), "renewals", is_amount=False),
        Column(_("First orders"), "first_orders", is_amount=False),
    )


def _ways() -> tuple[Column, ...]:
    return (
        Column(_("Came in"), "received"),
        Column(_("Fees"), "fees"),
        Column(_("Given back"), "given_back"),
        Column(_("Other"), "other"),
        Column(_("Left"), "left"),
    )


def _table(title: str, name: str, rows: Sequence[dict[str, Any]], columns: Sequence[Column], code: str) -> Section:
    cells = [(name_of(row), *(_cell(row, column, code) for column in columns)) for row in rows]
    return Section(title, (name, *(column.title for column in columns)), cells, code)


def _accounts(rows: Sequence[dict[str, Any]], code: str) -> Section:
    names = dict(Account.choices)
    header = (_("Account"), _("Opening balance"), _("Debits"), _("Credits"), _("Closing balance"))
    keys = ("opening", "debits", "credits", "closing")
    cells = [(str(names[row["account"]]), *(_amount(row[key], code) for key in keys)) for row in rows]
    return Section(_("Accounts"), header, cells, code)


def _of_the_whole(report: Report) -> list[tuple[Cell, ...]]:
    orders, leases = report["orders"], report["leases"]
    return [
        *_marks(report),
        (_("Orders placed"), orders["placed"]),
        (_("Orders paid"), orders["paid"]),
        (_("Active leases"), leases["active"]),
        (_("Leases at the start"), leases["at_start"]),
        (_("Leases that ended and did not come back"), leases["lost"]),
    ]


def _marks(report: Report) -> list[tuple[str, str]]:
    """When the report was made, and whether it can still change."""
    made = datetime.fromisoformat(report["made_at"])
    state = _("The month is closed.") if report["is_closed"] else _("The month is open: figures may still change.")
    return [
        (_("Month"), report["month"]),
        (_("Time zone"), report["time_zone"]),
        (_("Made"), paper.moment_text(made, operators_zone())),
        (_("State"), state),
    ]


def _cell(row: dict[str, Any], column: Column, code: str) -> Cell:
    return _amount(row[column.key], code) if column.is_amount else int(row[column.key])


def _amount(minor: int | None, code: str) -> Decimal | None:
    return None if minor is None else money.to_decimal(minor, code)


# --- cells ------------------------------------------------------------------------------------------


def _words(sheet: Any, said: str, *, is_bold: bool = False) -> WriteOnlyCell:
    """A cell of text, which stays text whatever it begins with."""
    cell = WriteOnlyCell(sheet, value=ILLEGAL_CHARACTERS_RE.sub("", said))
    cell.data_type = "s"
    if is_bold:
        cell.font = Font(bold=True)
    return cell


def _workbook_cell(sheet: Any, value: Cell, code: str) -> WriteOnlyCell | int | None:
    if isinstance(value, str):
        return _words(sheet, value)
    if isinstance(value, Decimal):
        cell = WriteOnlyCell(sheet, value=value)
        places = money.exponent(code)
        cell.number_format = "#,##0." + "0" * places if places else "#,##0"
        return cell
    return value


def _paper_cell(value: Cell, code: str) -> str:
    if isinstance(value, Decimal):
        return f"{value:,.{money.exponent(code)}f}"
    return "–" if value is None else str(value)
