"""The report as a PDF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4, landscape
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import inch, mm
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Image, KeepTogether, PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

from django_app.datasets.report.charts import Chart
from django_app.datasets.report.document import Document

#: Lines of the table, at most; the page shows all of them.
_MOST_ROWS = 200
_HEADINGS = (
    *("Column", "Type", "Values", "Missing", "Distinct"),
    *("Minimum", "Median", "Maximum", "Mean", "Deviation", "Most frequent"),
)
_FONT, _BOLD = "DejaVu", "DejaVu-Bold"


def render(document: Document, charts: list[Chart]) -> bytes:
    """The whole report."""
    _register_fonts()
    file = io.BytesIO()
    template = SimpleDocTemplate(
        file,
        pagesize=landscape(A4),
        leftMargin=15 * mm,
        rightMargin=15 * mm,
        topMargin=15 * mm,
        bottomMargin=15 * mm,
        title=document.title,
        author="Cloudqueue",
    )
    body, title, heading = _style(9, 12), _style(20, 26, _BOLD), _style(13, 20, _BOLD)
    story: list[Any] = [
        Paragraph(escape(document.title), title),
        Paragraph(f"Written {document.written_at:%Y-%m-%d %H:%M} UTC", body),
        Spacer(1, 4 * mm),
        Paragraph(" &nbsp; ".join(f"{escape(name)}: {escape(value)}" for name, value in document.facts), body),
        Spacer(1, 4 * mm),
        _table(document, _style(6.5, 8)),
    ]
    hidden = len(document.rows) - _MOST_ROWS
    if hidden > 0:
        story.append(Paragraph(f"{hidden} more columns are on the report's page.", body))
    story.append(PageBreak())
    for chart in charts:
        scale = min(1.0, template.width / (chart.width * inch), (template.height - 30 * mm) / (chart.height * inch))
        image = Image(io.BytesIO(chart.png), chart.width * inch * scale, chart.height * inch * scale)
        story.append(
            KeepTogether(
                [Paragraph(chart.title, heading), Paragraph(escape(chart.text), body), image, Spacer(1, 6 * mm)]
            )
        )
    template.build(story, onFirstPage=_footer, onLaterPages=_footer)
    return file.getvalue()


def _table(document: Document, cell: ParagraphStyle) -> Table:
    lines: list[list[Any]] = [[Paragraph(f"<b>{name}</b>", cell) for name in _HEADINGS]]
    for row in document.rows[:_MOST_ROWS]:
        texts = (
            *(row.name, row.kind, row.values, row.missing, row.distinct),
            *(row.minimum, row.median, row.maximum, row.mean, row.deviation, row.most_frequent),
        )
        lines.append([Paragraph(escape(text), cell) for text in texts])
    widths = [width * mm for width in (34, 14, 18, 25, 24, 27, 20, 27, 20, 20, 38)]
    style = [
        ("LINEBELOW", (0, 0), (-1, 0), 0.6, colors.HexColor("#1f2933")),
        ("LINEBELOW", (0, 1), (-1, -1), 0.2, colors.HexColor("#cbd2d9")),
        ("VALIGN", (0, 0), (-1, -1), "TOP"),
        ("LEFTPADDING", (0, 0), (-1, -1), 2),
        ("RIGHTPADDING", (0, 0), (-1, -1), 2),
    ]
    return Table(lines, colWidths=widths, repeatRows=1, style=TableStyle(style))


def _style(size: float, leading: float, font: str = _FONT) -> ParagraphStyle:
    return ParagraphStyle("text", fontName=font, fontSize=size, leading=leading, splitLongWords=True)


def _footer(canvas: Any, template: Any) -> None:
    canvas.saveState()
    canvas.setFont(_FONT, 7)
    canvas.setFillColor(colors.HexColor("#7b8794"))
    canvas.drawString(15 * mm, 9 * mm, "Cloudqueue")
    canvas.drawRightString(landscape(A4)[0] - 15 * mm, 9 * mm, f"Page {canvas.getPageNumber()}")
    canvas.restoreState()


def _register_fonts() -> None:
    """DejaVu Sans, which matplotlib brings: Latin, Greek and Cyrillic, where PDF's own fonts have Latin-1 alone."""
    if _FONT in pdfmetrics.getRegisteredFontNames():
        return
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pdfmetrics.registerFont(TTFont(_FONT, folder / "DejaVuSans.ttf"))
    pdfmetrics.registerFont(TTFont(_BOLD, folder / "DejaVuSans-Bold.ttf"))
    pdfmetrics.registerFontFamily(_FONT, normal=_FONT, bold=_BOLD, italic=_FONT, boldItalic=_BOLD)
