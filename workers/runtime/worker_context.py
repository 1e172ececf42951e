"""What all agents of a worker share, and how one of them may be requested to stop."""

from collections.abc import Callable, Mapping
from enum import IntEnum

from msgspec import Struct

from eventstore.language.pool_config import PoolConfig
from eventstore.log.pool_log import PoolLog
from eventstore.steps.step import Fence
from workers.api.agent import Agent
from workers.api.engine import Database
from workers.output.lines import Output


class StopRequest(IntEnum):
    """How an agent is to stop, the strongest last."""

    NONE = 0
    RELEASE = 1
    """Stop in good order, to run again elsewhere."""
    STOP = 2
    RELEASE_NOW = 3
    STOP_NOW = 4
    ABANDON = 5
    """The right to run it is lost: end it at once and write nothing."""


class WorkerContext(Struct, frozen=True, kw_only=True):
    """What all agents of a worker share."""

    log: PoolLog
    fence: Fence
    config: PoolConfig
    roles: Mapping[str, type[Agent]]
    database: Database
    output: Output | None
    fallback: bool = False
    on_fenced: Callable[[], None]
    """Called when the log refused something as FENCED."""
