"""What the judge is made of. Nothing of Muster is imported here: see `tests/chaos/judge.py`."""
