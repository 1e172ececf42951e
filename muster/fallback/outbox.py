"""What is on its way from the fallback's log to the real one.

An entry stands in the fallback's own Redis, in the counters of its pool, and is written in the same
step that ends the agent there. So an agent is either alive in the fallback's log, or ended there
with its entry: from then on it may be asked for in the real log, once, however often the
change-over is begun again. The entry's outcome is written beside it when the real log has answered.
"""

import hashlib
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.language.agents import Agent
from eventstore.language.events import AgentRequested
from eventstore.retention import INTERNAL_OPERATION_MS

FIELD: Final = "handover:"
"""Before an agent's id: its entry's field in the pool's `meta`."""
KEEP_MS: Final = 30 * 86_400_000
"""How long the real log remembers a hand-over. A change-over that rests for longer is not sure."""


class Result(StrEnum):
    """What became of an entry."""

    OPEN = ""
    HANDED_OVER = "handed-over"
    """It is an agent of the real log."""
    RECORDED = "recorded"
    """It had ended before; the real log knows it as ended, for who repeats its key."""
    ENDED = "ended"
    """Its end had been asked for, and has come with the change-over."""
    LEFT = "left"
    """The real log does not have it."""


class Key(Struct, frozen=True, kw_only=True):
    """The operation id under which a client (or the gateway for it) asked, while it counts."""

    operation_id: str
    digest: str
    expires_ms: int

    def from_client(self, agent_id: str) -> bool:
        """Whether it is kept for longer than the keys that the gateway makes itself."""
        return self.expires_ms - created_ms(agent_id) > 2 * INTERNAL_OPERATION_MS


class Entry(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One agent. `alive`: it was, in the fallback, so it is to run; else it is to be known."""

    pool_name: str
    agent_id: str
    request: AgentRequested
    since_ms: int
    alive: bool = True
    key: Key | None = None
    result: Result = Result.OPEN
    reason: str = ""

    def operation_id(self, log_id: str) -> str:
        return f"fallback:{log_id}:{self.agent_id}"

    @property
    def digest(self) -> str:
        """The client's, or one of the request itself."""
        if self.key is not None:
            return self.key.digest
        return hashlib.sha256(msgspec.json.encode(self.request)).hexdigest()


def request_of(agent: Agent) -> AgentRequested:
    """The request as it would be made now. What has claimed it once needs no time-out any more."""
    return AgentRequested(
        role_type=agent.role_type,
        project_id=agent.project_id,
        heartbeat_interval=agent.heartbeat_interval,
        max_idle_time=agent.max_idle_time,
        expires_ms=agent.expires_ms,
        input=agent.input,
        labels=agent.labels,
    )


def created_ms(agent_id: str) -> int:
    """When an id was made: the first 48 bits of a UUIDv7."""
    return int(agent_id.replace("-", "")[:12], 16)
