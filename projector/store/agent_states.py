"""What agents have saved last, as the database has it: not a view, but a copy that outlasts Redis.

A state is copied after its event was folded. It is only ever given to the agent whose events name
its digest, so an older one is of no harm; and it goes with the fold of the agent's end.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct
from msgspec.structs import astuple
from sqlalchemy import Connection, delete, exists, not_, or_, select

from eventstore.language.agents import Agent
from projector.store.mapping import agent_of, chunks
from projector.store.tables import AGENT_STATES, HAS_STATE, SERVING, run

IDS_MAX: Final = 500
STATES_READ: Final = 16
"""States, of 1 MiB at most, in one SELECT."""
_S: Final = AGENT_STATES.c
_A: Final = SERVING.agents.c


class SavedState(Struct, frozen=True):
    """One row."""

    pool_name: str
    agent_id: str
    save: int
    sha256: str
    saved_at: int
    state: bytes


_NAMES: Final = SavedState.__struct_fields__
_CHANGES: Final = ", ".join(f"{name} = excluded.{name}" for name in _NAMES[2:])
_STORE: Final = (
    f"INSERT INTO {{}}agent_states ({', '.join(_NAMES)}) SELECT {', '.join('?' * len(_NAMES))}"
    " WHERE EXISTS (SELECT * FROM {}agents a"
    " WHERE a.pool_name = ? AND a.agent_id = ? AND a.state_sha256 = ?)"
    f" ON CONFLICT (pool_name, agent_id) DO UPDATE SET {_CHANGES}"
)


def store(connection: Connection, states: Iterable[SavedState]) -> None:
    """Store states, each if it is the one that the views name."""
    for state in states:
        of = (state.pool_name, state.agent_id, state.sha256)
        run(connection, _STORE, *astuple(state), *of)


def read(connection: Connection, agent: Agent) -> bytes | None:
    """The state that an agent saved last; None if it is not here."""
    of = (_S.pool_name == agent.pool_name, _S.agent_id == agent.agent_id)
    query = select(_S.state).where(*of, _S.sha256 == agent.state_sha256)
    return connection.execute(query).scalar()


def copied(connection: Connection, agents: Sequence[Agent]) -> set[tuple[str, str]]:
    """Pool and id of those whose state is here."""
    found: set[tuple[str, str]] = set()
    for some in chunks(agents, IDS_MAX):
        wanted = {(agent.pool_name, agent.agent_id, agent.state_sha256) for agent in some}
        query = select(_S.pool_name, _S.agent_id, _S.sha256)
        rows = connection.execute(query.where(_S.agent_id.in_([agent.agent_id for agent in some])))
        found |= {(row[0], row[1]) for row in rows if tuple(row) in wanted}
    return found


def uncopied(connection: Connection) -> list[Agent]:
    """Agents whose state is not here, and those that wait for it."""
    same = (_S.pool_name == _A.pool_name, _S.agent_id == _A.agent_id)
    here = exists().where(*same, _S.sha256 == _A.state_sha256)
    query = select(SERVING.agents).where(HAS_STATE, or_(not_(here), _A.state_lost))
    return [agent_of(row) for row in connection.execute(query).mappings()]


def of_pool(connection: Connection, pool: str) -> Iterator[tuple[str, str, bytes]]:
    """Id, digest and state of a pool's agents, a few at a time."""
    after = ""
    while True:
        query = select(_S.agent_id, _S.sha256, _S.state).where(_S.pool_name == pool)
        page = query.where(_S.agent_id > after).order_by(_S.agent_id).limit(STATES_READ)
        rows = [(row[0], row[1], row[2]) for row in connection.execute(page)]
        yield from rows
        if len(rows) < STATES_READ:
            return
        after = rows[-1][0]


def forget(connection: Connection, changed: Iterable[Agent]) -> None:
    """Delete the states of those agents of one pool that have saved, and have none any more."""
    for some in chunks((one for one in changed if one.save and not one.state_sha256), IDS_MAX):
        of = (_S.pool_name == some[0].pool_name, _S.agent_id.in_([one.agent_id for one in some]))
        connection.execute(delete(AGENT_STATES).where(*of))


def forget_pools(connection: Connection, deleted: Sequence[str]) -> None:
    """Delete all states of pools that were deleted: their agents cannot be restarted."""
    if deleted:
        connection.execute(delete(AGENT_STATES).where(_S.pool_name.in_(deleted)))


def forget_ended(connection: Connection) -> None:
    """Delete those of agents that, as the views know, have none any more."""
    same = (_S.pool_name == _A.pool_name, _S.agent_id == _A.agent_id)
    ended = exists().where(*same, _A.state_sha256 == "")
    connection.execute(delete(AGENT_STATES).where(ended))
