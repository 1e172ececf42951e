"""Folds the streams into SQL: the registry of agents and workers, capacity, the archive."""
