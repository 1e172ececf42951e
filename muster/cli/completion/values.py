"""The values that a running Muster knows: pools, projects, roles, agents, workers, and so on.

The gateway is asked, within 300 ms altogether; what it does not answer by then is left out.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Thread
from typing import Final

from msgspec import Struct

from eventstore.errors import MusterError
from muster.cli.client.api_client import BASE, LOOKUP, TOKENS, GatewayClient

TIMEOUT_SECONDS: Final = 0.3
LISTED_MAX: Final = 200
"""So many agents or workers at most are asked for where hardly anything was typed."""
PART_MIN: Final = 6
"""From so many characters on a part of an id is looked up."""

VARIABLE: Final = "MUSTER_COMPLETION_SECONDS"
Values = dict[str, str]
Ask = Callable[[GatewayClient, str], Values]


class _Agent(Struct, frozen=True):
    agent_id: str = ""
    project_id: str = ""
    pool_name: str = ""
    status: str = ""


class _Worker(Struct, frozen=True):
    worker_id: str = ""
    pool_name: str = ""
    status: str = ""
    agent_count: int = 0
    max_agents: int = 0


class _Pool(Struct, frozen=True):
    pool_name: str = ""
    role_type: str = ""
    used_capacity: int = 0
    total_capacity: int = 0


class _Named(Struct, frozen=True):
    name: str = ""
    kind: str = ""
    pool_name: str = ""
    status: str = ""


class _Lists(Struct, frozen=True):
    """Any list of the gateway."""

    agents: tuple[_Agent, ...] = ()
    workers: tuple[_Worker, ...] = ()
    pools: tuple[_Pool, ...] = ()
    tokens: tuple[_Named, ...] = ()
    webhooks: tuple[_Named, ...] = ()
    matches: tuple[_Named, ...] = ()


def find(kind: str, typed: str, flags: Mapping[str, str]) -> Values:
    """Values with their descriptions that begin as typed; of ids also those that end so."""
    if kind in FIXED:
        return _starting(typed, dict.fromkeys(FIXED[kind](), ""))
    if kind not in ASKED:
        return {}
    asking = [_Asking(ask, typed, flags) for ask in ASKED[kind]]
    deadline = time.monotonic() + timeout_seconds()
    for one in asking:
        one.join(max(deadline - time.monotonic(), 0))
    answered = [one.found for one in asking if not one.is_alive()]
    return {value: text for found in answered for value, text in found.items()}


def timeout_seconds() -> float:
    """How long the gateway has to answer; another number for a distant one."""
    try:
        return float(os.environ.get(VARIABLE) or TIMEOUT_SECONDS)
    except ValueError:
        return TIMEOUT_SECONDS


class _Asking(Thread):
    """One question to the gateway, which is not waited for at the end of the process."""

    def __init__(self, ask: "Ask", typed: str, flags: Mapping[str, str]) -> None:
        super().__init__(daemon=True)
        self.found: Values = {}
        self._ask, self._typed, self._flags = ask, typed, flags
        self.start()

    def run(self) -> None:
        with suppress(MusterError):
            self.found = self._ask(_gateway(self._flags), self._typed)


def _gateway(flags: Mapping[str, str]) -> GatewayClient:
    names = ("url", "token", "data_dir")
    given = {name: flags.get(f"--{name.replace('_', '-')}") for name in names}
    return GatewayClient(argparse.Namespace(**given))


def _ask(gateway: GatewayClient, path: str, **query: str | int) -> _Lists:
    return gateway.get(path, query, timeout_seconds=timeout_seconds()).read(_Lists)


def _starting(typed: str, values: Mapping[str, str]) -> Values:
    return {value: text for value, text in values.items() if value.startswith(typed)}


def _pools(gateway: GatewayClient, typed: str) -> Values:
    pools = _ask(gateway, f"{BASE}/pools").pools
    return _starting(
        typed,
        {one.pool_name: f"pool, {one.used_capacity}/{one.total_capacity} used" for one in pools},
    )


def _roles(gateway: GatewayClient, typed: str) -> Values:
    pools = _ask(gateway, f"{BASE}/pools").pools
    return _starting(typed, {one.role_type: f"role of pool {one.pool_name}" for one in pools})


def _projects(gateway: GatewayClient, typed: str) -> Values:
    agents = _ask(gateway, BASE, limit=LISTED_MAX).agents
    return _starting(typed, {one.project_id: "project" for one in agents})


def _agents(gateway: GatewayClient, typed: str) -> Values:
    if len(typed) >= PART_MIN:
        return _looked_up(gateway, typed, "agent")
    agents = _ask(gateway, BASE, limit=LISTED_MAX).agents
    texts = {one.agent_id: f"agent of {one.pool_name}, {one.status}" for one in agents}
    return _starting(typed, texts)


def _workers(gateway: GatewayClient, typed: str) -> Values:
    if len(typed) >= PART_MIN:
        return _looked_up(gateway, typed, "worker")
    workers = _ask(gateway, f"{BASE}/workers", limit=LISTED_MAX).workers
    return _starting(
        typed,
        {
            one.worker_id: f"worker of {one.pool_name}, {one.agent_count}/{one.max_agents}"
            for one in workers
        },
    )


def _looked_up(gateway: GatewayClient, typed: str, *kinds: str) -> Values:
    matches = _ask(gateway, LOOKUP, name=typed, kind=",".join(kinds)).matches
    return {one.name: f"{one.kind} of {one.pool_name}, {one.status}" for one in matches}


def _tokens(gateway: GatewayClient, typed: str) -> Values:
    return _starting(typed, {one.name: "" for one in _ask(gateway, TOKENS).tokens})


def _webhooks(gateway: GatewayClient, typed: str) -> Values:
    return _starting(typed, {one.name: "" for one in _ask(gateway, "/api/v1/webhooks").webhooks})


def _states() -> list[str]:
    from eventstore.language.agents import Status

    return [status.value for status in Status]


def _event_types() -> list[str]:
    from eventstore.language.events import EVENT_TYPES

    return list(EVENT_TYPES)


FIXED: Mapping[str, Callable[[], list[str]]] = {"state": _states, "event-type": _event_types}
ASKED: Mapping[str, tuple[Ask, ...]] = {
    "pool": (_pools,),
    "role": (_roles,),
    "project": (_projects,),
    "agent": (_agents,),
    "worker": (_workers,),
    "name": (_pools, _agents, _workers),
    "token": (_tokens,),
    "webhook": (_webhooks,),
}
