"""The report: what it says (document.py), its charts (charts.py), its PDF (pdf.py). For workers only."""
