"""An agent as a later version might have it: one more field of each kind, and the codecs for it."""

from enum import StrEnum
from typing import Final

import msgspec

from eventstore.language.agents import Agent
from eventstore.language.events import Count, Error
from eventstore.steps import hashes
from projector.store import mapping
from projector.store.rows import AgentRow


class Temper(StrEnum):
    CALM = "calm"
    NOT_SO = "not-so calm"


class ShortAgent(Agent, frozen=True, kw_only=True):
    """With what a hash can hold."""

    temper: str = "calm"
    tries: Count = 3
    total: int = 4
    weight: float = 0.5
    limit: float | None = 2.0
    loud: bool = True
    tone: Temper = Temper.NOT_SO
    seen: tuple[int, ...] = (35, 36)
    moved_ms: int = 5


class LaterAgent(ShortAgent, frozen=True, kw_only=True):
    """With what only a table can hold, too."""

    names: dict[str, str] = msgspec.field(default_factory=dict)
    document: msgspec.Raw = msgspec.Raw(b"{}")
    first_error: Error | None = None


class LaterRow(AgentRow, frozen=True, kw_only=True):
    temper: str
    tries: int
    moved_at: int
    names: dict[str, str]


USUAL_HASH: Final = hashes.AGENT.to_hash(
    Agent(agent_id="a", pool_name="p", role_type="r", project_id="x")
)
ADDED: Final = ShortAgent.__struct_fields__[len(Agent.__struct_fields__) :]
HASH: Final = hashes.HashCodec(
    "agent", ShortAgent, key="agent_id", first=" ".join(hashes.AGENT.first)
)
ROW: Final = mapping.RowCodec(
    LaterAgent,
    keys="agent_id pool_name",
    first=" ".join(mapping.AGENTS.columns),
    renamed=mapping.AGENT_COLUMNS,
    more={"generation": int},
)
