"""Statistics of a CSV file, computed piecewise and merged. Pure: no Django, no AWS, no Celery.

split.py finds where the file may be cut, parse.py reads one piece strictly, columns.py and pairs.py summarise it,
summary.py merges pieces and renders the result. polars, numpy and datasketches are imported here, so only workers
may import these modules; the web side imports errors.py and limits.py alone.
"""
