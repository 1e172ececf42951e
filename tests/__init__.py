"""Muster's tests. This file keeps test folders from being found under a product package's name."""
