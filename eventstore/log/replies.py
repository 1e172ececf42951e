"""The replies of the log's scripts as values."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Self

from msgspec import Struct

from eventstore.connection.calls import pairs_of
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker


class Proof(Struct, frozen=True):
    """Identifies a command's writes: `lua/confirm.lua` checks that a data set has them.

    `generation` and `seq` are the position of the pool's log after those writes; generation 0: the
    highest position that this process knows.
    """

    pool: str
    kind: str
    """`event`, `operation`, `ending` or `log`."""
    subject: str = ""
    value: str = ""
    generation: int = 0
    seq: int = 0


class Outcome(StrEnum):
    """How a step ended. Only after DONE and ALREADY the wanted state is reached."""

    DONE = "DONE"
    ALREADY = "ALREADY"
    """There was nothing to do."""
    FENCED = "FENCED"
    """The epoch or incarnation changed: stop."""
    CONFLICT = "CONFLICT"
    """A check failed: the state has changed."""
    ABSENT = "ABSENT"
    """There is no such agent or worker."""
    CLOSED = "CLOSED"
    """The pool accepts no spawns."""
    FULL = "FULL"
    """Too many spawns wait."""
    KNOWN = "KNOWN"
    """This operation was recorded before."""


class Reply(Struct, frozen=True):
    """A script's reply. `rest`: the further values, as the script's header describes them."""

    outcome: Outcome
    generation: int
    seq: int
    ts: int
    rest: Sequence[Any] = ()


class AgentResult(Struct, frozen=True):
    """The result of `act`: its outcome, the agent as it is now, and what identifies the writes.

    `proof` is None if nothing was written.
    """

    outcome: Outcome
    agent: Agent | None
    proof: Proof | None = None


class WorkerResult(Struct, frozen=True):
    outcome: Outcome
    worker: Worker | None


class ClaimedAgent(Struct, frozen=True):
    """An agent returned to a worker: its slot is booked, unless it is to be terminated."""

    agent: Agent
    spec: bytes
    """JSON with `input` and `labels`; empty if both are."""


class LogHead(Struct, frozen=True):
    """The position of a log, with the field names of its meta hash. Generation 0: no log."""

    generation: int = 0
    seq: int = 0
    halted: str = ""
    """Why it accepts no writes; empty if it does."""
    recovered_seq: int = 0
    """The seq after which its generation started."""

    @classmethod
    def of(cls, reply: Sequence[bytes | None]) -> Self:
        """From the reply to HMGET for all these fields."""
        generation, seq, halted, recovered_seq = (value or b"" for value in reply)
        return cls(int(generation or 0), int(seq or 0), halted.decode(), int(recovered_seq or 0))


class Leadership(Struct, frozen=True):
    """The leader of a pool's scaling. `renewal` changes for as long as it lives."""

    host: str
    term: int
    renewal: int


def fields_of(flat: Sequence[bytes]) -> dict[str, str]:
    """A reply in which names and values alternate, as text."""
    texts = iter([value.decode("utf-8", "replace") for value in flat])
    return dict(zip(texts, texts, strict=True))


def scores_of(flat: Sequence[bytes]) -> list[tuple[str, int]]:
    """Members of a sorted set with their scores, from a reply WITHSCORES."""
    return [(text_of(member), int(float(score))) for member, score in pairs_of(flat)]


def text_of(value: bytes) -> str:
    """Invalid UTF-8 becomes replacement characters, which are refused where it matters."""
    return value.decode(errors="replace")
