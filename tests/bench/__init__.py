"""Measurements: `python -m tests.bench`, and the slow ones of the tests with `pytest -m bench`."""
