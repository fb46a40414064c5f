"""Reports of odd profiles: nothing breaks, nothing is interpreted, nothing grows without bound."""

from __future__ import annotations

import io
import time

import pytest
from django.template.loader import render_to_string
from pypdf import PdfReader

from django_app.datasets.models import Dataset
from django_app.datasets.report import charts, pdf
from django_app.datasets.report.document import Document
from tests.unit.test_profile import profile

WIDE = (",".join(f"c{n}" for n in range(1000)) + "\n" + (",".join(str(n) for n in range(1000)) + "\n") * 3).encode()
HOSTILE = (
    b'<b>bold</b>,$x^2$,&amp;,"=1+1","{{ 7|add:1 }}"\n<i>,$\\frac{,<script>alert(1)</script>,=1+1,"{% now ""Y"" %}"\n'
)

PROFILES = {
    "one value": b"a\n1\n",
    "all missing": b"a,b\n,\n,\n",
    "text only": b"a,b\nx,y\nz,w\n",
    "one date": b"when,n\n2024-01-01,1\n",
    "constant": b"n,m\n5,5\n5,5\n",
    "huge numbers": b"n\n1e300\n-1e300\n1e-300\n",
    "hostile": HOSTILE,
    "long words": b"a\n" + b"x" * 5000 + b"\n",
    "other scripts": "naïve,Ελλάδα,Россия,航班,✈\né,β,ж,航,🛩\n".encode(),
    "a thousand columns": WIDE,
}


def rendered(data: bytes) -> tuple[str, str, list[charts.Chart]]:
    """The report of a file: its page, the text of its PDF, its charts."""
    dataset = Dataset(name="<i>name</i> & more.csv", size_bytes=len(data), profile=profile(data))
    document = Document.of(dataset)
    drawn = charts.draw(document)
    page = render_to_string("datasets/report_document.html", {"document": document, "charts": drawn})
    sheets = PdfReader(io.BytesIO(pdf.render(document, drawn))).pages
    return page, "\n".join(sheet.extract_text() for sheet in sheets), drawn


@pytest.mark.parametrize("data", PROFILES.values(), ids=PROFILES.keys())
def test_every_profile_makes_a_page_and_a_pdf(data):
    page, text, _ = rendered(data)
    assert "&lt;i&gt;name&lt;/i&gt; &amp; more.csv" in page
    assert "<i>name</i> & more.csv" in text


def test_what_the_file_says_is_shown_and_never_interpreted():
    page, text, _ = rendered(HOSTILE)
    for markup in ("<b>bold", "<script>", "<i>,"):
        assert markup not in page
    assert "{{ 7|add:1 }}" in page
    assert "$x^2$" in page
    assert "<b>bold</b>" in text
    assert "&amp;" in text


def test_names_in_other_scripts_are_in_the_pdf():
    _, text, _ = rendered(PROFILES["other scripts"])
    for name in ("naïve", "Ελλάδα", "Россия"):
        assert name in text


def test_the_charts_are_those_that_the_figures_allow():
    titles = [chart.title for chart in rendered(b"when,n,m\n" + b"2024-01-01,1,2\n2024-01-02,2,\n2024-01-03,3,6\n")[2]]
    assert titles == ["Missing values", "Rows by day", "Distributions", "Correlations"]
    assert [chart.title for chart in rendered(b"a\nx\n")[2]] == ["Distributions"]


def test_a_chart_says_what_it_shows_to_those_who_cannot_see_it():
    for chart in rendered(b"n,m\n1,2\n2,\n3,7\n")[2]:
        assert len(chart.text) > 20
        assert chart.svg.startswith(b"<?xml")
        assert b"<script" not in chart.svg
        assert chart.png.startswith(b"\x89PNG")


def test_a_report_on_a_thousand_columns_stays_within_bounds():
    began = time.process_time()
    page, text, drawn = rendered(WIDE)
    assert page.count("<tr>") == 1001
    assert "800 more columns are on the report's page." in text
    assert "976 more columns are in the table only." in drawn[0].text
    assert len(page) < 2_000_000
    assert time.process_time() - began < 60


def test_the_same_figures_draw_the_same_charts():
    first, second = rendered(PROFILES["constant"])[2], rendered(PROFILES["constant"])[2]
    assert [chart.svg for chart in first] == [chart.svg for chart in second]
