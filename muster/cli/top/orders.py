"""What can be done: what it will touch, in words, the calls that do it, and what came of them."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

from msgspec import Struct

from muster.cli.arguments.command import CommandError
from muster.cli.client.api_client import BASE
from muster.cli.client.shapes import AgentAnswer, PoolAnswer, WorkerAnswer
from muster.cli.top.connection import Connection
from muster.terminal import render

WAIT_SECONDS: Final = 5
LISTED_MAX: Final = 5
"""So many are named before; the others are counted."""
REASON: Final = "by muster top"
AT_ONCE: Final = 2
"""Connections that orders take; the third one goes on reading."""


class Call(Struct, frozen=True):
    """One call, and about whom it is."""

    about: str
    path: str
    body: dict[str, object] = {}


class Order(Struct, frozen=True, kw_only=True):
    """Something that is done after it was confirmed."""

    question: str
    touches: tuple[str, ...]
    """Lines that say what it will touch."""
    done: str
    """What is said after: `terminated`."""
    noun: str
    calls: tuple[Call, ...]
    with_reason: bool = False
    """Whether a reason may be typed."""

    @property
    def number(self) -> str:
        """What has to be typed to confirm it; empty where a key is enough."""
        return str(len(self.calls)) if len(self.calls) > 1 else ""


class Result(Struct, frozen=True):
    """What came of an order."""

    summary: str
    failures: tuple[str, ...]


def terminate(agents: Sequence[AgentAnswer]) -> Order:
    calls = [
        Call(
            one.agent_id,
            f"{BASE}/terminate",
            {"pool_name": one.pool_name, "agent_id": one.agent_id, "graceful": True},
        )
        for one in agents
    ]
    touches = (*_agents(agents), "Its `stop` is called, then it ends for good.")
    return _order("Terminate", "terminated", "agent", touches, calls)


def restart(agents: Sequence[AgentAnswer]) -> Order:
    calls = [Call(one.agent_id, f"{BASE}/{quote(one.agent_id)}/restart") for one in agents]
    explained = "It is stopped in good order if it runs, and starts as its next incarnation."
    return _order("Restart", "restarted", "agent", (*_agents(agents), explained), calls)


def drain(workers: Sequence[WorkerAnswer]) -> Order:
    number = sum(one.agent_count for one in workers)
    explained = (
        f"{render.count(number, 'agent')} will be stopped in good order and run in other workers"
        " with their ids; then it ends."
    )
    return _workers("Drain", "drain", "draining", workers, explained)


def cordon(workers: Sequence[WorkerAnswer]) -> Order:
    """All are uncordoned if all are cordoned, else all are cordoned."""
    if workers and all(one.cordoned for one in workers):
        explained = "Agents that wait may get its free slots again; a requested drain is withdrawn."
        return _workers("Uncordon", "uncordon", "uncordoned", workers, explained)
    number = sum(one.agent_count for one in workers)
    explained = f"It gets no more agents; {render.count(number, 'agent')} run on."
    return _workers("Cordon", "cordon", "cordoned", workers, explained)


def pause(pools: Sequence[PoolAnswer]) -> Order:
    """All are resumed if all are paused, else all are paused."""
    resumes = bool(pools) and all(one.config.get("paused") for one in pools)
    name = "resume" if resumes else "pause"
    calls = [
        Call(
            one.pool_name,
            f"{BASE}/pools/{quote(one.pool_name, safe='')}/{name}",
            {} if resumes else {"reason": REASON},
        )
        for one in pools
    ]
    if resumes:
        reasons = {str(one.config.get("paused")) for one in pools}
        explained = f"Workers are added and removed again. It was paused: {', '.join(reasons)}"
    else:
        explained = "No workers are added or removed; agents run on, new ones get free slots."
    touches = (*_few([f"pool {one.pool_name}: {_pool(one)}" for one in pools]), explained)
    return _order(name.capitalize(), f"{name}d", "pool", touches, calls, with_reason=not resumes)


def _workers(
    verb: str, name: str, done: str, workers: Sequence[WorkerAnswer], explained: str
) -> Order:
    path = f"{BASE}/workers"
    calls = [Call(one.worker_id, f"{path}/{quote(one.worker_id)}/{name}") for one in workers]
    lines = [
        f"worker {render.short_id(one.worker_id)} of {one.pool_name} on {one.host}, {one.status},"
        f" {one.agent_count}/{one.max_agents} slots used"
        for one in workers
    ]
    return _order(verb, done, "worker", (*_few(lines), explained), calls, with_reason=True)


def _order(
    verb: str,
    done: str,
    noun: str,
    touches: Sequence[str],
    calls: Sequence[Call],
    *,
    with_reason: bool = False,
) -> Order:
    one = f"{noun} {render.short_id(calls[0].about)}" if calls else noun
    subject = one if len(calls) == 1 else render.count(len(calls), noun)
    return Order(
        question=f"{verb} {subject}?",
        touches=tuple(touches),
        done=done,
        noun=noun,
        calls=tuple(calls),
        with_reason=with_reason,
    )


def _agents(agents: Sequence[AgentAnswer]) -> list[str]:
    return _few(
        [
            f"agent {render.short_id(one.agent_id)} of {one.pool_name}, project {one.project_id},"
            f" {one.status}{f' ({one.activity})' if one.activity else ''}"
            for one in agents
        ]
    )


def _pool(pool: PoolAnswer) -> str:
    workers = render.count(pool.process_count, "worker")
    return f"{workers}, {render.count(pool.agent_count, 'agent')}, {pool.pending_count} pending"


def _few(lines: Sequence[str]) -> list[str]:
    more = len(lines) - LISTED_MAX
    return [*lines[:LISTED_MAX], *([f"… and {more:,} more"] if more > 0 else [])]


async def carry_out(connection: Connection, order: Order, reason: str = "") -> Result:
    """Make all calls, two at a time; each refusal is in the result."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def make(call: Call) -> str:
        body = {**call.body, **({"reason": reason} if reason else {})}
        async with slots:
            try:
                await connection.call(
                    "POST", call.path, body=body, headers={"Prefer": f"wait={WAIT_SECONDS}"}
                )
            except CommandError as error:
                return render.one_line(str(error))
        return ""

    errors = await asyncio.gather(*map(make, order.calls))
    failed = Counter(error for error in errors if error)
    done = len(order.calls) - sum(failed.values())
    subject = render.short_id(order.calls[0].about) if len(order.calls) == 1 else ""
    number = f"{order.noun} {subject}" if subject else render.count(len(order.calls), order.noun)
    summary = f"{number} {order.done}"
    if failed and subject:
        summary = f"{number} was not {order.done}"
    elif failed:
        summary = f"{done:,} of {number} {order.done}, {sum(failed.values()):,} not"
    return Result(summary, tuple(_failures(order, errors)))


def _failures(order: Order, errors: Sequence[str]) -> list[str]:
    """Each reason with whom it is about."""
    about: dict[str, list[str]] = {}
    for call, error in zip(order.calls, errors, strict=True):
        if error:
            about.setdefault(error, []).append(render.short_id(call.about))
    return [f"{', '.join(_few(names))}: {error}" for error, names in about.items()]
