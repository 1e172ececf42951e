"""How a step is tried again after a conflict or an unknown reply."""

from collections.abc import Iterator
from contextlib import contextmanager

from eventstore.errors import LogError, OutcomeUnknown, Recovered

ATTEMPTS = 8
"""How often a step is decided anew when others were faster."""


@contextmanager
def reraise_unknown(unknown: OutcomeUnknown | None) -> Iterator[None]:
    """What an earlier attempt left unknown stays so, also where Redis is away or refuses by now."""
    try:
        yield
    except LogError as error:
        if unknown is None or isinstance(error, OutcomeUnknown | Recovered):
            raise
        raise unknown from error
