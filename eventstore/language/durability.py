"""The levels of durability that a request can ask for."""

from enum import StrEnum


class Level(StrEnum):
    """What holds when a command is answered."""

    ACCEPTED = "accepted"
    """Appended: in the primary's memory, and handed to its append-only file."""
    FSYNCED = "fsynced"
    """On the primary's disk."""
    REPLICATED = "replicated"
    """Received by so many replicas."""
    ARCHIVED = "archived"
    """Committed to the database, in the archive."""
