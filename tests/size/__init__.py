"""Data sets of full size with little in them: the real MARS tables over synthetic pixels, a Common Voice of as many rows as the real one.

For tests and benches of the stages that read names and tables. `python -m tests.size FOLDER --fraction 0.1` lays both out.
"""
