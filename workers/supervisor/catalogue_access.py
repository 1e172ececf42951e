"""What the supervisor of one pool reads and changes in the catalogue."""

from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from eventstore.language.catalogue import Pool


class CatalogueAccess(Struct, frozen=True):
    """The catalogue, for one pool."""

    pool: Callable[[], Pool]
    """The pool as it is now. Raises `LogError` where the catalogue was recovered without it."""
    joined_hosts: Callable[[], Sequence[str]]
    finish_deletion: Callable[[Pool], Awaitable[None]]
    remove_host: Callable[[str], Awaitable[None]]
    """Record that a host has left; one that has not joins again."""
