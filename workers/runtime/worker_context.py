"""What all agents of a worker share."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from typing import Final

from msgspec import Struct, field

from eventstore.language.pool_config import PoolConfig
from eventstore.language.workers import ROLE_NOT_DECLARED
from eventstore.log.pool_log import PoolLog
from eventstore.log.replies import Proof
from eventstore.steps.step import Fence
from workers.api.agent import Agent
from workers.api.engine import Database
from workers.output.limits import Limit, OutputLimits
from workers.output.lines import Output

ROUTINE_LINES: Final = OutputLimits(lines_per_second=20.0, bytes_per_second=1.0, burst_seconds=5.0)
"""Of starts and ends of agents, as far as a worker logs them (their size is not counted)."""


class WorkerContext(Struct, kw_only=True):
    """What all agents of a worker share. `config` is replaced when the pool's settings change."""

    log: PoolLog
    fence: Fence
    config: PoolConfig
    roles: Mapping[str, type[Agent]]
    database: Database
    output: Output | None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    """The one that runs: to ask for it takes a call of the system each time."""
    routine_lines: Limit = field(default_factory=lambda: Limit(ROUTINE_LINES))
    starts: str = ""
    """The role whose agents are started by the claim, once the worker can make them."""
    shared: object = None
    """What the role's `worker_lifespan` yielded."""
    fallback: bool = False
    on_fenced: Callable[[], None] = lambda: None
    """Called when the log refused something as FENCED."""
    lease_expired: Callable[[], bool] = lambda: False
    """Whether no agent may be started any more: another worker may run it already."""
    confirm: Callable[[Proof], Awaitable[str]] | None = None
    """Waits until what was saved is as durable as is required; returns why it is not. None: what
    Redis has acknowledged is."""
    variables: Context = field(default_factory=copy_context)
    """In which the worker's own code runs where an agent calls it."""
    leaves_agents: Callable[[], bool] = lambda: False
    """Whether agents that are stopped are left to the worker's reaper, and not released."""
    drained_by: str = ""
    """The id of the `worker.draining` that its agents are released because of; empty: none."""
    on_role_problem: Callable[[str], None] = lambda _: None
    """Called with the reason when the class of an agent's role is not available here."""

    def role_problem(self, role: str) -> str:
        """Why no agent of a role can be made here, which is no failure of the agent."""
        return (
            "" if role in self.roles else f"{ROLE_NOT_DECLARED}: this worker has no role {role!r}"
        )
