"""The levels of durability that a request can require."""

from enum import StrEnum


class Level(StrEnum):
    """What is guaranteed when a command is answered."""

    ACCEPTED = "accepted"
    """Appended: in the primary's memory, and passed to its append-only file."""
    FSYNCED = "fsynced"
    """On the primary's disk."""
    REPLICATED = "replicated"
    """Received by the required number of replicas."""
    ARCHIVED = "archived"
    """Committed to the database, in the archive."""
