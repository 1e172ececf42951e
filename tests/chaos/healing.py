"""Waits until all works again: a probe at each gateway, from the spawn to the views."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from tests.chaos.asking import API, Answer, ask
from tests.chaos.configuration import PROBE, role_of
from tests.waiting import until

PAUSE_SECONDS = 0.1


class NotHealed(Exception):
    """Something did not recover by itself."""


async def heal(
    gateways: list[str],
    name: str,
    timeout_seconds: float,
    note_problem: Callable[[str], None] = lambda _kind: None,
) -> float:
    """Wait until a spawn at every gateway runs and all views show it; returns the seconds taken.

    `note_problem` gets the kind of every problem that is answered. Raises `NotHealed`, with the
    last answers, after the timeout.
    """
    started = time.monotonic()
    probes = [
        _Probe(gateways, number, name, timeout_seconds, note_problem)
        for number in range(len(gateways))
    ]
    try:
        async with asyncio.timeout(timeout_seconds):
            await asyncio.gather(*(probe.run() for probe in probes))
    except (TimeoutError, AssertionError):
        said = "; ".join(probe.last for probe in probes)
        raise NotHealed(f"not healed within {timeout_seconds:g} s: {said}") from None
    healed = time.monotonic() - started
    await asyncio.gather(*(probe.end() for probe in probes))
    return healed


class _Probe:
    """One spawn at one gateway; it has to run, and the other gateways have to see it run."""

    def __init__(
        self,
        gateways: list[str],
        number: int,
        name: str,
        timeout: float,
        note_problem: Callable[[str], None],
    ) -> None:
        self.last = ""
        self._timeout = timeout
        self._note_problem = note_problem
        self._gateways = gateways
        self._own = gateways[number]
        self._headers = {"Idempotency-Key": f"probe-{name}-{number}", "Prefer": "wait=2"}
        self._body = {
            "project_id": "probe",
            "role_type": role_of(PROBE),
            "pool_name": PROBE,
            "max_idle_time": None,
            "labels": {"command": f"probe-{name}-{number}"},
        }
        self._agent_id = ""

    async def run(self) -> None:
        await until(self._spawned, timeout=self._timeout, interval=PAUSE_SECONDS)
        for gateway in self._gateways:
            seen = partial(self._is_shown, gateway)
            await until(seen, timeout=self._timeout, interval=PAUSE_SECONDS)

    async def _spawned(self) -> bool:
        path = f"{API}/spawn"
        answer = await ask(self._own, "POST", path, self._body, headers=self._headers, seconds=8)
        self._note("spawn", answer)
        if answer.status != 200:
            return False
        self._agent_id = answer.body["agent_id"]
        return bool(answer.body["status"] == "running")

    async def _is_shown(self, gateway: str) -> bool:
        answer = await ask(gateway, "GET", f"{API}/{self._agent_id}", seconds=8)
        self._note("read", answer)
        seen = answer.status == 200 and not answer.stale
        return seen and bool(answer.body["status"] == "running")

    async def end(self) -> None:
        body = {"pool_name": PROBE, "agent_id": self._agent_id}
        headers = {"Prefer": "respond-async"}
        await ask(self._own, "POST", f"{API}/terminate", body, headers=headers)

    def _note(self, what: str, answer: Answer) -> None:
        self._note_problem(answer.kind)
        status = answer.body.get("status") if isinstance(answer.body, dict) else ""
        self.last = f"{what}: {answer.said} {status}{' stale' if answer.stale else ''}"
