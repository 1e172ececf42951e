"""Agents built on frameworks that people use, tried at length: see `.ci/frameworks`."""
