"""Measurements; run them with `pytest -m bench`."""
