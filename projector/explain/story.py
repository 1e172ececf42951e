"""The events that an explanation is made from, and what is found in them. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

from msgspec import Struct

from eventstore.language import events
from eventstore.language.events import Event

ID_END = 8
"""As many characters of an id as the command line shows."""
ENDS = (events.WorkerDraining, events.WorkerStopped, events.WorkerLost)
"""How workers end, or begin to."""


class Story(Struct, frozen=True, kw_only=True):
    """Events of one subject, in order, and those of others that they follow from."""

    pool: str
    first: Sequence[Event]
    """The first ones, if others are left out between these and `last`."""
    last: Sequence[Event]
    context: Sequence[Event] = ()
    """Those just before `last`, which are not shown."""
    left_out: int = 0
    others: Sequence[Event] = ()
    """Events of the pool and of its workers."""
    agents: Mapping[str, int] = {}
    """By the id of a worker's event: how many agents it concerned."""


class Known:
    """The events of others, by what they are searched for."""

    def __init__(self, others: Sequence[Event]) -> None:
        ordered = sorted(others, key=_seq)
        self.by_id = {event.event_id: event for event in ordered}
        self.by_subject: dict[str, list[Event]] = {}
        for event in ordered:
            self.by_subject.setdefault(event.subject, []).append(event)
        self._ends = [e for e in ordered if isinstance(e.body, ENDS)]

    def ends(self, after: int, before: int) -> list[Event]:
        """Drains and ends of workers between two places in the log."""
        return self._ends[
            bisect_right(self._ends, after, key=_seq) : bisect_left(self._ends, before, key=_seq)
        ]


class Scene(Struct, frozen=True):
    """One event and what came before it."""

    event: Event
    earlier: Sequence[Event]
    """Of the same subject."""
    story: Story
    known: Known

    def previous(self, *bodies: type[events.Body]) -> Event | None:
        """The last earlier event of one of these types; without types, the last one."""
        return last_of(self.earlier, *bodies)

    def cause(self) -> Event | None:
        """The event that it follows from, if it is known."""
        cause = self.event.causation_id
        near = next((e for e in reversed(self.earlier) if e.event_id == cause), None)
        return near or self.known.by_id.get(cause)

    def before(self, subject: str) -> Sequence[Event]:
        """Known events of another subject before this one, in order."""
        found = self.known.by_subject.get(subject, [])
        return found[: bisect_left(found, self.event.seq, key=_seq)]


def _seq(event: Event) -> int:
    return event.seq


def last_of(found: Sequence[Event], *bodies: type[events.Body]) -> Event | None:
    """The last event of one of these types; without types, the last one."""
    return next((e for e in reversed(found) if not bodies or isinstance(e.body, bodies)), None)


def without_repeated_saves(found: Sequence[Event]) -> list[Event]:
    """Without saves of a state that another save follows: an agent may save all the time."""
    return [
        event
        for event, following in zip_longest(found, found[1:])
        if not (_is_save(event) and following and _is_save(following))
    ]


def _is_save(event: Event) -> bool:
    return isinstance(event.body, events.AgentSaved)


# ---- words ----------------------------------------------------------------------------------


def span(ms: float) -> str:
    """A time span: `85 ms`, `2.3 s`, `3 min 20 s`, `5 h 12 min`, `9 days`."""
    ms = max(ms, 0)
    if ms < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} days"


def short(identifier: str) -> str:
    """The end of an id, by which the command line finds it; other names as they are."""
    return f"…{identifier[-ID_END:]}" if len(identifier) == 36 else identifier


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def after(texts: Iterable[str], separator: str = "; ") -> str:
    """Those that are not empty, joined."""
    return separator.join(filter(None, texts))


def by(actor: str) -> str:
    """Who caused an event, from its `actor`, with a space in front; empty if that is not known."""
    name, _, rest = actor.partition(":")
    match name:
        case "http":
            return " over HTTP"
        case "worker":
            return f" by worker {short(rest)}"
        case "supervisor":
            return f" by the supervisor of host {rest}"
        case "configuration":
            return " by the configuration file"
        case "fallback":
            return " in the fallback"
        case "projector" | "muster recover":
            return " by a recovery"
        case _:
            return f" by {actor}" if actor else ""
