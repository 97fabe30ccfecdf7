"""The pieces of the report: what is read, counted and drawn. The step is `evaluate/report.py`."""
