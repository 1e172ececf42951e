"""The agents of a run: they record when they ran, and some of them misbehave on purpose.

This file and `misbehaving.py` are copied next to the run's configuration and imported by the
workers, so they import nothing but what a user's agent would, and which worker it is in. Every
incarnation has a file of its own in the folder that `CHAOS_TRACE` names, a JSON object a line: who
it is, the token it runs with, the state it was given, and when, by CLOCK_BOOTTIME; further lines
while it runs, and one with `stopped` when its code has ended. A killed process writes no such line;
then the last one is a lower bound.

`input` says how it behaves: `{"do": "…", "after": seconds, "for": seconds, "linger": seconds}`,
`{"idles": true}`: it works now and then and is idle in between, or `{"misbehave": seed}`: it acts
as `misbehaving.py` says.
"""

import asyncio
import contextlib
import hashlib
import importlib
import json
import os
import signal
import threading
import time
from pathlib import Path

from muster import Agent, Context, SaveFailed
from workers.output.lines import CURRENT

TICK_SECONDS = 0.25
SAVE_SECONDS = 0.7
WORK_TICKS = 2
IDLE_TICKS = 8
SAVES = 20
"""Of each incarnation."""


class AgentTrace:
    """The record of one incarnation."""

    def __init__(self, context: Context) -> None:
        token = context.fencing_token
        self._known = {
            "pool": context.pool_name,
            "agent_id": context.agent_id,
            "incarnation": context.incarnation,
            "worker_id": worker_id(),
            "token": str(token),
        }
        name = f"{context.agent_id}.{context.incarnation}.{token.generation}-{token.seq}.jsonl"
        self._path = Path(os.environ["CHAOS_TRACE"]) / name

    def write(self, **more: object) -> None:
        """One line, in one write."""
        at = round(time.clock_gettime(time.CLOCK_BOOTTIME), 4)
        with self._path.open("ab", buffering=0) as file:
            file.write(json.dumps({**self._known, "at": at, **more}).encode() + b"\n")


def worker_id() -> str:
    """The worker that runs us: its log file is called by its id."""
    owner = CURRENT.get()
    assert owner is not None
    assert owner.output is not None
    return owner.output.file.path.stem


def calm() -> bool:
    """Whether the run is about to end."""
    return (Path(os.environ["CHAOS_TRACE"]) / "calm").exists()


class Immediate(Agent):
    """Runs until it is stopped; in its first incarnation it does once what its input says."""

    trace: AgentTrace | None = None
    unwell = False
    restored = ""
    """The digest of the state that it began with."""

    async def run(self, context: Context) -> None:
        trace = self.trace or self._begin(context)
        try:
            await self._run(context, trace)
        finally:
            trace.write(stopped=True)

    def _begin(self, context: Context) -> AgentTrace:
        do = context.input.get("do")
        if do == "raise-in-start" and context.incarnation == 1:
            raise RuntimeError("as requested")
        self.unwell = do == "raise-in-check" and context.incarnation == 1
        self.trace = AgentTrace(context)
        self.trace.write(restored=self.restored)
        return self.trace

    async def _run(self, context: Context, trace: AgentTrace) -> None:
        if seed := context.input.get("misbehave"):
            name = f"{context.agent_id}.{context.incarnation}"
            acts = importlib.import_module("chaos_misbehaving")
            await acts.misbehave(f"{seed}/{name}", name, trace.write)
        after, do = float(context.input.get("after", 0.5)), context.input.get("do")
        if do and (context.incarnation == 1 or do == "complete"):
            await self._tick(trace, after)
            if do == "complete":
                return
            await self._misbehave(do, float(context.input.get("for", 1.0)), trace)
        while context.input.get("idles"):
            await self._work_and_idle(context, trace)
        await self._tick(trace, None)

    async def _tick(self, trace: AgentTrace, seconds: float | None) -> None:
        ends = None if seconds is None else time.monotonic() + seconds
        while ends is None or time.monotonic() < ends:
            trace.write()
            await asyncio.sleep(TICK_SECONDS)

    async def _work_and_idle(self, context: Context, trace: AgentTrace) -> None:
        """It says so with no turn of the event loop in between."""
        trace.write(busy=True)
        for _ in range(WORK_TICKS):
            await asyncio.sleep(TICK_SECONDS)
            trace.write()
        trace.write(busy=False)
        async with context.idle():
            for _ in range(IDLE_TICKS):
                await asyncio.sleep(TICK_SECONDS)
                trace.write()

    async def _misbehave(self, do: str, seconds: float, trace: AgentTrace) -> None:
        match do:
            case "kill-process":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit-process":
                os._exit(3)
            case "block-loop":
                threading.Event().wait(seconds)  # blocks the event loop
            case "swallow-cancellation":
                await self._swallow(trace, seconds)
            case "raise-in-run":
                raise RuntimeError("as requested")
            case "raise-in-check":
                await self._tick(trace, None)  # it is ended for its checks
            case _:
                raise ValueError(do)

    async def _swallow(self, trace: AgentTrace, seconds: float) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            trace.write()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)

    async def stop(self, context: Context) -> None:
        await asyncio.sleep(float(context.input.get("linger", 0.0)))

    async def check(self, context: Context) -> None:
        if self.unwell:
            raise RuntimeError("as requested")


class Tested(Immediate):
    """The same with a `start` of its own, and a state: it counts how often it was saved."""

    saves = 0
    digest = ""
    """Of what it saved last."""

    async def restore(self, state: bytes) -> None:
        self.saves = int(state.split()[0])
        self.restored = hashlib.sha256(state).hexdigest()

    async def save(self) -> bytes:
        self.saves += 1
        state = b"%d %b" % (self.saves, os.urandom(200))
        self.digest = hashlib.sha256(state).hexdigest()
        return state

    async def start(self, context: Context) -> None:
        trace = self._begin(context)
        self.saving = asyncio.create_task(self._save_often(context, trace))

    async def _save_often(self, context: Context, trace: AgentTrace) -> None:
        for _ in range(SAVES):  # a system at rest writes nothing
            await asyncio.sleep(SAVE_SECONDS)
            if calm():
                return
            number = self.saves + 1
            with contextlib.suppress(SaveFailed):
                await context.save()
                if self.saves == number:  # else another one is under way
                    trace.write(saved=self.digest)
