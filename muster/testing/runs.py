"""Running an agent in a test: to its end, or while the test goes on."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from operator import attrgetter
from typing import Any, TypedDict, Unpack

import structlog

from eventstore.language.pool_config import PoolConfig
from muster.testing.agent import AgentFailed, DidNotEnd, TestedAgent
from muster.testing.guard import Blocked, guarded
from workers.api.agent import Agent, overrides
from workers.standalone.standalone import StandaloneOptions


class Request(TypedDict, total=False):
    """What a spawn request and a pool say of an agent. Times are in seconds."""

    input: Mapping[str, Any]
    labels: Mapping[str, str]
    project_id: str
    heartbeat_interval: float
    """Between checks (30)."""
    max_idle_time: float | None
    start_timeout: float
    """60."""
    stop_grace: float
    """10."""
    database_url: str
    """Of `context.engine()`."""
    state: bytes
    """What an earlier incarnation saved, for its `restore`."""
    shared: Any
    """For `context.shared`, in place of what `worker_lifespan` would yield."""


@asynccontextmanager
async def running(
    role: type[Agent],
    *,
    timeout: float = 5.0,
    **request: Unpack[Request],
) -> AsyncIterator[TestedAgent]:
    """A started agent; it is stopped in good order at the end of the block.

    Raises `AgentFailed`, with the traceback, if its code fails, and `DidNotEnd` where its start or
    end takes longer than `timeout` seconds.
    """
    with _guarded(role, timeout):
        agent = TestedAgent(role, _options(request), timeout)
        try:
            await agent.wait_until(lambda: agent.started or agent.ended)
            agent.require_success()
            yield agent
            await agent.stop()
            agent.require_success()
        finally:
            await agent.cancel()


def run(
    role: type[Agent],
    *,
    until: Callable[[TestedAgent], object] | None = None,
    release: bool = False,
    timeout: float = 5.0,
    **request: Unpack[Request],
) -> TestedAgent:
    """Run an agent to its end, and return it.

    The end is its own, or it is stopped in good order once `until` is true; an agent without a
    `run`, once it has started. `release`: it is stopped as if it were to go on elsewhere, and saves
    its state. What its code raises is in `outcome` and `error`, and raises nothing
    here. Raises `DidNotEnd` after `timeout` seconds, with the line at which the agent waits.
    """
    if until is None and not overrides(role, "run"):
        until = attrgetter("started")

    async def to_its_end() -> TestedAgent:
        with _guarded(role, timeout):
            agent = TestedAgent(role, _options(request), timeout)
            try:
                if until is not None:
                    await agent.wait_until(
                        lambda: agent.outcome or (agent.started and until(agent))
                    )
                    await (agent.release() if release else agent.stop())
                else:
                    await agent.wait("it did not end by itself (`until=` says when to stop it)")
            finally:
                await agent.cancel()
            return agent

    __tracebackhide__ = True
    try:
        agent = asyncio.run(to_its_end())
    except (AgentFailed, DidNotEnd) as error:
        raise error.with_traceback(None) from None  # no frames of asyncio
    if agent.error is not None:  # pytest shows it of a test that fails
        logging.getLogger("muster.testing").warning("%r", agent)
    return agent


def _options(request: Request) -> StandaloneOptions:
    fields: dict[str, Any] = {**request}
    config = PoolConfig(
        restart_limit=0,
        start_timeout_seconds=fields.pop("start_timeout", 60.0),
        stop_grace_seconds=fields.pop("stop_grace", 10.0),
    )
    return StandaloneOptions(config=config, engine_url=fields.pop("database_url", ""), **fields)


@contextmanager
def _guarded(role: type[Agent], timeout: float) -> Iterator[None]:
    try:
        with guarded(timeout), _without_own_lines():
            yield
    except Blocked as error:
        where = f"{role.__name__} blocked the event loop for {timeout:g} s at:\n{error}"
        raise DidNotEnd(where) from None


@contextmanager
def _without_own_lines() -> Iterator[None]:
    """Leave Muster's own log lines (`agent.started` …) out of what a test captures."""

    def drop(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if "agent_id" in event and str(event.get("event")).startswith("agent."):
            raise structlog.DropEvent
        return event

    structlog.configure(processors=[drop, *structlog.get_config()["processors"]])
    try:
        yield
    finally:
        processors = structlog.get_config()["processors"]
        structlog.configure(processors=[one for one in processors if one is not drop])
