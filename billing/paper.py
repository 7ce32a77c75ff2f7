"""Paper: what PDF files of the shop are made of, and the receipt of an order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape
from zoneinfo import ZoneInfo

from django.conf import settings
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from reportlab.lib.colors import Color, HexColor
from reportlab.lib.enums import TA_RIGHT
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from billing.models import Order, Payment
from billing.services.words import describe
from derp_portal.lib import money
from derp_portal.lib.errors import PortalError

LATIN, LATIN_BOLD, CHINESE, OWN = "Helvetica", "Helvetica-Bold", "STSong-Light", "PortalFont"
MARGIN = 18 * mm
FRAME_PADDING = 6
WIDTH = A4[0] - 2 * (MARGIN + FRAME_PADDING)
"""How wide what stands on a page may be."""

INK, FAINT, LINE = HexColor("#0f172a"), HexColor("#475569"), HexColor("#cbd5e1")


# --- building bricks --------------------------------------------------------------------------------


@cache
def _own_font(path: str) -> str:
    """The operator's font, if one is named: it is put into the file, so that every reader shows the same."""
    if not path:
        return ""
    pdfmetrics.registerFont(TTFont(OWN, path))
    return OWN


@cache
def _register_chinese() -> str:
    """A font that readers of PDF have or know how to get; it is not put into the file."""
    pdfmetrics.registerFont(UnicodeCIDFont(CHINESE))
    return CHINESE


def markup(text: object) -> str:
    """Text for a Paragraph: escaped, and what Latin fonts do not have in a font that does."""
    said = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]", "", str(text))
    if _own_font(getattr(settings, "PDF_FONT", "")):
        return escape(said)
    parts = []
    for part in re.split(r"((?:(?![\u0000-\u024f\u2010-\u2027\u20ac]).)+)", said, flags=re.DOTALL):
        if part and not _is_latin(part):
            parts.append(f'<font name="{_register_chinese()}">{escape(part)}</font>')
        else:
            parts.append(escape(part))
    return "".join(parts)


def _is_latin(text: str) -> bool:
    try:
        text.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def style(
    *, size: float = 9, is_bold: bool = False, is_right: bool = False, colour: Color = INK, space_after: float = 0
) -> ParagraphStyle:
    """How a paragraph looks."""
    own = _own_font(getattr(settings, "PDF_FONT", ""))
    options: dict[str, Any] = {"alignment": TA_RIGHT} if is_right else {}
    return ParagraphStyle(
        "portal",
        fontName=own or (LATIN_BOLD if is_bold else LATIN),
        fontSize=size,
        leading=size * 1.4,
        textColor=colour,
        spaceAfter=space_after,
        **options,
    )


def text(said: object, **looks: Any) -> Paragraph:
    """A paragraph. What is not all Latin may be broken between any two characters."""
    looked = style(**looks)
    if not _is_latin(str(said)):
        looked.wordWrap = "CJK"
    return Paragraph(markup(said), looked)


def heading(said: object) -> Paragraph:
    """The title of a part."""
    return text(said, size=11, is_bold=True, space_after=4)


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, wide: int = 0, share: float = 0.3) -> Table:
    """Rows under a header that is repeated on every page. Column `wide` takes `share` of the width and is of words;
    the others are of numbers, to the right.
    """
    others = (1 - share) / max(len(header) - 1, 1)
    widths = [WIDTH * (share if number == wide or len(header) == 1 else others) for number in range(len(header))]
    cells = [[text(cell, size=8, is_bold=True, is_right=n != wide) for n, cell in enumerate(header)]]
    cells += [[text(cell, size=8, is_right=n != wide) for n, cell in enumerate(row)] for row in rows]
    return Table(
        cells,
        colWidths=widths,
        hAlign="LEFT",
        repeatRows=1,
        style=TableStyle(
            [
                ("LINEBELOW", (0, 0), (-1, -1), 0.5, LINE),
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 2),
                ("RIGHTPADDING", (0, 0), (-1, -1), 2),
                ("TOPPADDING", (0, 0), (-1, -1), 3),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 3),
            ]
        ),
        spaceAfter=10,
    )


def facts(pairs: Sequence[tuple[object, object]]) -> Table:
    """Names on the left, what they are on the right."""
    cells = [[text(name, colour=FAINT), text(said)] for name, said in pairs]
    return Table(
        cells,
        colWidths=[WIDTH * 0.3, WIDTH * 0.7],
        hAlign="LEFT",
        style=TableStyle(
            [
                ("VALIGN", (0, 0), (-1, -1), "TOP"),
                ("LEFTPADDING", (0, 0), (-1, -1), 0),
                ("TOPPADDING", (0, 0), (-1, -1), 1),
                ("BOTTOMPADDING", (0, 0), (-1, -1), 1),
            ]
        ),
        spaceAfter=10,
    )


def document(title: str, story: Sequence[Flowable], *, foot: str = "") -> bytes:
    """The PDF file: the title, then the story, with `foot` and a page number below every page."""
    file = BytesIO()
    template = SimpleDocTemplate(
        file,
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=title,
        author=seller(),
    )

    def below(canvas: Any, page: Any) -> None:
        line = text(f"{foot} · {page.page}" if foot else str(page.page), size=7, colour=FAINT)
        line.wrapOn(canvas, WIDTH, MARGIN)
        line.drawOn(canvas, MARGIN + FRAME_PADDING, MARGIN / 2)

    first = [text(seller(), colour=FAINT), text(title, size=16, is_bold=True, space_after=8)]
    template.build([*first, *story], onFirstPage=below, onLaterPages=below)
    return file.getvalue()


def seller() -> str:
    """Who sells, as it stands on paper."""
    return str(getattr(settings, "SITE_NAME", "") or _("DERP Portal"))


def moment_text(moment: datetime, zone: ZoneInfo) -> str:
    """A moment for paper: in that zone, which is named."""
    return f"{date_format(moment.astimezone(zone), 'Y-m-d H:i')} ({zone.key})"


# --- the receipt ------------------------------------------------------------------------------------


def receipt_pdf(order: Order) -> bytes:
    """The receipt of a paid order, in the active language, times in the customer's zone.

    Raises PortalError `not_paid` for an order that is not paid.
    """
    if order.paid_at is None:
        raise PortalError(_("There is a receipt once the order is paid."), code="not_paid", status=409)
    zone = order.user.zone if order.user else ZoneInfo(settings.TIME_ZONE)

    def amount(minor: int) -> str:
        return money.for_people(minor, order.currency)

    known: list[tuple[object, object]] = [
        (_("Receipt for order"), order.number),
        (_("Seller"), seller()),
        (_("Customer"), _customer(order)),
        (_("Ordered"), moment_text(order.created_at, zone)),
        (_("Paid"), moment_text(order.paid_at, zone)),
    ]
    if way := _way(order):
        known.append((_("Paid by"), way))
    lines = [
        (describe(line), amount(line.unit_amount), amount(line.amount))
        for line in order.lines.select_related("plan", "pack")
    ]
    sums: list[tuple[object, object]] = []
    if order.discount:
        sums += [(_("Before discount"), amount(order.subtotal)), (_("Discount"), amount(-order.discount))]
    sums += [(_("Total"), amount(order.total)), (_("Received"), amount(order.received))]
    if order.refunded:
        sums.append((_("Given back"), amount(order.refunded)))
    story: list[Flowable] = [
        facts(known),
        table((_("What"), _("Price of each"), _("Amount")), lines, share=0.6),
        facts(sums),
        Spacer(1, 6 * mm),
        text(_("This receipt was made by a computer and is valid without a signature."), size=8, colour=FAINT),
    ]
    return document(_("Receipt"), story, foot=order.number)


def _customer(order: Order) -> str:
    if order.user:
        return f"{order.user.username} <{order.user.email}>"
    assert order.channel is not None
    return f"{order.channel.name}, {order.external_number}"


def _way(order: Order) -> str:
    paid = order.payments.filter(state=Payment.State.PAID).select_related("method").order_by("-paid_at").first()
    return paid.method.local_name if paid else ""
