"""Agents built on frameworks that people use. All ask the same model: see `model`."""
