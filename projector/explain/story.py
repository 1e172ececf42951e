"""The events that an explanation is made from, and what is found in them. Pure."""

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from eventstore.language import events
from eventstore.language.events import Event

ID_END = 8
"""As many characters of an id as the command line shows."""


class Story(Struct, frozen=True, kw_only=True):
    """Events of one subject, in order, and those of others that they follow from."""

    pool: str
    first: Sequence[Event]
    """The first ones, if others are left out between these and `last`."""
    last: Sequence[Event]
    context: Sequence[Event] = ()
    """Those just before `last`, which are not shown."""
    left_out: int = 0
    others: Mapping[str, Event] = {}
    """By id: events of the pool and of its workers."""
    agents: Mapping[str, int] = {}
    """By the id of a worker's event: how many agents it concerned."""


class Scene(Struct, frozen=True):
    """One event and what came before it."""

    event: Event
    earlier: Sequence[Event]
    """Of the same subject."""
    story: Story

    def previous(self, *bodies: type[events.Body]) -> Event | None:
        """The last earlier event of one of these types; without types, the last one."""
        return last_of(self.earlier, *bodies)

    def cause(self) -> Event | None:
        """The event that it follows from, if it is known."""
        cause = self.event.causation_id
        near = next((e for e in reversed(self.earlier) if e.event_id == cause), None)
        return near or self.story.others.get(cause)

    def of(self, subject: str) -> list[Event]:
        """Known events of another subject, in order."""
        found = (e for e in self.story.others.values() if e.subject == subject)
        return sorted(found, key=lambda event: event.seq)

    def decision_before(self, seq: int) -> Event | None:
        """The last known decision about the pool's size before a `seq`."""
        decided = (e for e in self.of(self.story.pool) if e.seq < seq)
        return last_of(list(decided), events.PoolScalingDecided)


def last_of(found: Sequence[Event], *bodies: type[events.Body]) -> Event | None:
    """The last event of one of these types; without types, the last one."""
    return next((e for e in reversed(found) if not bodies or isinstance(e.body, bodies)), None)


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
