"""How far each log was read, and whether this version can read an entry of it."""

from collections import deque
from typing import Final

from eventstore.errors import UnknownEvent
from eventstore.language.events import ENTRY_FIELDS, decode_entry, require_known
from eventstore.log.reader import Entry
from gateway.following.subscriptions import well_formed

STEPS_MAX: Final = 512


class ObservedHead:
    """How far one log was read, and when it got there: to know how late the views are."""

    def __init__(self, seq: int = 0, ts: int = 0) -> None:
        self.seq = seq
        self._steps: deque[tuple[int, int]] = deque([(seq, ts)], maxlen=STEPS_MAX)

    def advance(self, seq: int, ts: int) -> None:
        """A recovered log may continue below what was read of it: those steps are void."""
        while self._steps and self._steps[-1][0] >= seq:
            self._steps.pop()
        self.seq = seq
        self._steps.append((seq, ts))

    def behind_since(self, seq: int) -> int:
        """The log time of the first known step past `seq`; 0 if there is none."""
        return next((ts for reached, ts in self._steps if reached > seq), 0)


def require_readable(entry: Entry, *, with_body: bool) -> None:
    """Raises `UnknownEvent` unless this version can read it; `with_body`: its body, too."""
    if not well_formed(entry):
        raise foreign_entry()
    stream_id, fields = entry
    if with_body or len(fields) != 2 * len(ENTRY_FIELDS):
        decode_entry(stream_id, fields)
    try:
        require_known(fields[1].decode(), int(fields[3]))
        for number in (fields[5], fields[11] or 0, fields[15] or 0, fields[25]):
            int(number)
        b"".join(fields).decode()
    except ValueError as error:
        raise UnknownEvent(repr(fields[1]), 0, None, str(error)) from error


def foreign_entry() -> UnknownEvent:
    return UnknownEvent("entry that is no event", 0, None)


def entry_seq(entry: Entry) -> int:
    """The seq of an entry; 0 of one that is no event."""
    return int(entry[1][5]) if well_formed(entry) else 0
