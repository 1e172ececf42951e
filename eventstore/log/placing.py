"""Placing agents: what a pool's placer reads of the log, and the step that it makes.

A placed agent is in a slot of its worker, which is woken and fetches it with its next claim.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from eventstore.connection.calls import execute_many, translated_errors
from eventstore.errors import Unreadable
from eventstore.language.agents import Agent
from eventstore.language.events import AgentClaimed, encode_body
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Leadership, Outcome, fields_of, text_of
from eventstore.steps import hashes

log = structlog.get_logger("muster.log")

PLACER: Final = "placer"
"""For whom commands are pending that were read and not handed over; as in `lua/prelude.lua`."""
PLACED: Final = "placed"
NO_ROOM: Final = "worker"
UNREAD: Final = "unread"
"""Outcomes of `lua/place.lua`. Of any other the agent does not wait, as far as it is known."""
BATCH: Final = 500
"""Agents in one call; what is called meanwhile waits for no more."""


class Assignment(Struct, frozen=True):
    """A waiting agent, and the worker that is to have it."""

    agent_id: str
    incarnation: int
    worker_id: str
    epoch: int
    claim: AgentClaimed = AgentClaimed()


async def place(
    pool_log: PoolLog, lead: Leadership, assignments: Sequence[Assignment]
) -> list[str]:
    """Place agents, each or not; returns the outcomes, none of which is PLACED if another leads."""
    event_log, pool = pool_log.log, pool_log.pool
    flat = [
        field
        for one in assignments
        for field in (
            *(one.agent_id, one.incarnation, one.worker_id, one.epoch),
            encode_body(one.claim),
        )
    ]
    mark, first_id = event_log.high_water_mark(pool), event_log.new_id()
    reply = await event_log.run_script("place", pool, *mark, lead.host, lead.term, first_id, *flat)
    if reply.outcome is not Outcome.DONE:
        return [UNREAD for _ in assignments]
    outcomes, foreign = reply.rest
    for entry_id, reason, *content in foreign:
        entry = {"entry_id": text_of(entry_id), "reason": text_of(reason)}
        log.error("command.foreign", pool=pool, **entry, content=fields_of(content))
    found = [text_of(outcome) for outcome in outcomes]
    for one, outcome in zip(assignments, found, strict=True):
        if outcome.startswith("error"):
            log.error("agent.not_placed", pool=pool, agent_id=one.agent_id, error=outcome)
    return found


async def read_agents(event_log: Log, pool: str, agent_ids: Iterable[str]) -> list[Agent]:
    """Agents with their labels; without those that are gone, or cannot be read."""
    names, agents, keys = list(agent_ids), [], event_log.keys
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        commands = [("HGETALL", keys.agent(pool, name)) for name in batch]
        commands += [("GET", keys.pool(pool, f"spec:{name}")) for name in batch]
        with translated_errors(f"the agents of pool {pool!r} cannot be read"):
            replies = await execute_many(event_log.client, commands, refusals=True)
        for name, flat, spec in zip(batch, replies, replies[len(batch) :], strict=False):
            try:
                if isinstance(flat, list) and flat:
                    agent = hashes.AGENT.from_flat(name, flat)
                    agents.append(replace(agent, labels=_labels_of(spec)))
            except Unreadable:
                continue  # it is never placed, and parked by others
    return agents


def _labels_of(spec: object) -> dict[str, str]:
    if not isinstance(spec, bytes):
        return {}
    try:
        return msgspec.json.decode(spec, type=_Spec).labels
    except msgspec.MsgspecError:
        return {}


class _Spec(Struct, frozen=True):
    labels: dict[str, str] = {}
