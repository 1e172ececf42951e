"""Invariants 2 and 3 outside of the log: when agents ran, by their own records.

Each incarnation writes a file of its own, a JSON object a line, with the time by CLOCK_BOOTTIME:

    {"pool": "p", "agent_id": "…", "incarnation": 1, "worker_id": "…", "token": "1:17", "at": 12.5}
    …while it runs, at least every second or so…
    {…, "at": 14.1, "saved": "…"}        what it had saved then, as it was acknowledged: a digest
    {…, "at": 15.2, "busy": true}        it works from now on, or is idle again
    {…, "at": 17.1, "stopped": true}

The first line has all fields (`worker_id` may be left out); later ones need only `at`. Between two
lines further apart than that its process did not run. One that continues when another has
replaced it may write a little before it notices, which only the fencing token guards against; the
lease bounds for how long. One that was not stopped never runs at the same time as its successor.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.chaos.judging.agents import Agent
from tests.chaos.judging.catalogue import Catalogue
from tests.chaos.judging.commands import Command
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.pools import Pool

BREATH_SECONDS = 1.0
"""A running agent writes a line more often."""
TOGETHER_SECONDS = 0.3
"""How exact the times are: a line may be written a little after its time was taken."""


@dataclass
class AgentTrace:
    """What one incarnation wrote."""

    pool: str
    agent_id: str
    incarnation: int
    worker_id: str
    token: str
    times: list[float] = field(default_factory=list)
    stopped: bool = False
    restored: str | None = None
    """The digest of the state that it began with; None: it did not say."""
    saved: list[str] = field(default_factory=list)
    """The digests of what it saved, as that was acknowledged."""
    busy: bool = False
    """Whether it worked when it last said so."""

    def offence(self, invariant: int, why: str) -> Offence:
        subject = f"{self.agent_id}/{self.incarnation} in {self.worker_id}"
        return Offence(invariant, why, self.pool, subject=subject)

    def void(self, pool: Pool | None) -> bool:
        """Whether the claim that it ran by was lost with a part of the log."""
        generation, _, seq = self.token.partition(":")
        return pool is not None and pool.lost(int(generation), int(seq))

    def runs(self, longest: float) -> list[tuple[float, float]]:
        """The stretches in which it ran without a break longer than that, in seconds."""
        found = [[self.times[0], self.times[0]]] if self.times else []
        for before, at in pairwise(self.times):
            if at - before > longest:
                found.append([at, at])
            found[-1][1] = at
        return [(first, last) for first, last in found]


def read(folder: Path) -> list[AgentTrace]:
    """All files of a folder. A truncated last line is ignored."""
    found = (_trace(_lines(path)) for path in sorted(folder.glob("*.jsonl")))
    return [trace for trace in found if trace is not None]


def newest(folder: Path) -> float:
    """When the last line of all was written. Asked before `read`, which takes a while."""
    path = max(folder.glob("*.jsonl"), key=lambda path: path.stat().st_mtime, default=None)
    return max((float(line["at"]) for line in _lines(path)), default=0.0) if path else 0.0


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        try:
            line = json.loads(line)
        except ValueError:
            return
        yield line


def _trace(lines: Iterable[dict[str, Any]]) -> AgentTrace | None:
    trace: AgentTrace | None = None
    for line in lines:
        if trace is None:
            trace = AgentTrace(
                str(line["pool"]),
                str(line["agent_id"]),
                int(line["incarnation"]),
                str(line.get("worker_id", "")),
                str(line["token"]),
                restored=line.get("restored"),
            )
        trace.times.append(float(line["at"]))
        trace.busy = bool(line.get("busy", trace.busy))
        if "saved" in line:
            trace.saved.append(str(line["saved"]))
        trace.stopped = trace.stopped or bool(line.get("stopped"))
    return trace


def judge(
    traces: Sequence[AgentTrace],
    pools: dict[str, Pool],
    catalogue: Catalogue,
    commands: Sequence[Command] = (),
) -> Iterator[Offence]:
    by_agent: dict[str, list[AgentTrace]] = {}
    for trace in traces:
        by_agent.setdefault(trace.agent_id, []).append(trace)
        yield from _token(trace, pools.get(trace.pool))
    for runs in by_agent.values():
        lease = catalogue.lease_seconds(runs[0].pool)
        pool = pools.get(runs[0].pool)
        yield from _overlaps(
            sorted(runs, key=lambda life: (life.incarnation, life.times[:1])), lease, pool
        )
    yield from _after_the_end(by_agent, catalogue, commands)


def _token(trace: AgentTrace, pool: Pool | None) -> Iterator[Offence]:
    """It ran by a claim that is in the log, or was lost with it."""
    if trace.void(pool):
        return
    agent = pool.agents.get(trace.agent_id) if pool else None
    claim = agent.claims.get(trace.incarnation) if agent else None
    if claim is None:
        yield trace.offence(2, "it ran, but was never claimed")
    elif (
        trace.token != f"{claim.generation}:{claim.seq}"
        or (trace.worker_id or claim.worker_id) != claim.worker_id
    ):
        why = f"it ran with token {trace.token}, but {claim.worker_id} claimed it as "
        yield trace.offence(2, f"{why}{claim.generation}:{claim.seq}")
    elif agent and trace.restored not in {None, agent.claimed_with[trace.incarnation]}:
        yield trace.offence(2, "it began with another state than the one that it saved last")
    elif agent:
        yield from _kept(trace, agent, pool)


def _kept(trace: AgentTrace, agent: Agent, pool: Pool | None) -> Iterator[Offence]:
    """What it saved is in the log, unless that was recovered; and its work was not interrupted."""
    if pool is not None and not pool.recoveries:
        for digest in set(trace.saved) - agent.saved:
            yield trace.offence(8, f"it saved {digest[:12]}…, which is not in the log")
    if trace.busy and trace.incarnation in agent.moved and not (pool and pool.moves_busy):
        yield trace.offence(9, "it was moved while it was busy")


def _overlaps(runs: Sequence[AgentTrace], lease: float, pool: Pool | None) -> Iterator[Offence]:
    for index, one in enumerate(runs):
        for other in runs[index + 1 :]:
            again = one.incarnation == other.incarnation
            if again and not (one.void(pool) or other.void(pool)):
                yield other.offence(2, "two processes ran this incarnation")
            together = _together(one, other, lease)
            if together:
                why = f"it ran for {together:.1f} s together with incarnation {other.incarnation}"
                yield one.offence(2, why)


def _together(one: AgentTrace, other: AgentTrace, lease: float) -> float:
    """For how many seconds it overlapped with its successor, where that was too long; else 0."""
    longest = 0.0
    for number, (first, last) in enumerate(one.runs(BREATH_SECONDS)):
        for start, end in other.runs(BREATH_SECONDS):
            woke = number > 0 and first > start
            both = min(last, end) - max(first, start)
            if both > (lease if woke else TOGETHER_SECONDS):
                longest = max(longest, both)
    return longest


def awake(
    traces: Sequence[AgentTrace], pools: dict[str, Pool], catalogue: Catalogue, since: float
) -> Iterator[Offence]:
    """At rest, agents that run according to the log do run. `since`: when any agent last wrote
    before the records were read. Only for pools whose agents write records.
    """
    last: dict[tuple[str, str, str], float] = {}
    for trace in traces:
        key = trace.pool, trace.agent_id, trace.token
        last[key] = max((last.get(key, 0.0), *trace.times))
    for name in sorted({trace.pool for trace in traces} & pools.keys()):
        allowed = catalogue.lease_seconds(name) + BREATH_SECONDS
        for agent_id, agent in pools[name].living.items():
            token = f"{agent.generation}:{agent.claim_seq}"
            silent = since - last.get((name, agent_id, token), 0.0)
            if agent.status == "running" and silent > allowed:
                seen = f"for {silent:.1f} s" if silent < since else "at all"
                why = f"incarnation {agent.incarnation} runs by the log, but was not seen {seen}"
                yield Offence(2, why, name, subject=agent_id)


def _after_the_end(
    by_agent: dict[str, list[AgentTrace]], catalogue: Catalogue, commands: Sequence[Command]
) -> Iterator[Offence]:
    for command in commands:
        if not command.ended_at:
            continue
        lease = catalogue.lease_seconds(command.pool)
        for trace in by_agent.get(command.agent_id, ()):
            for index, (first, last) in enumerate(trace.runs(BREATH_SECONDS)):
                woke = index > 0 and first > command.ended_at
                if last > command.ended_at + (lease if woke else 0.0) and not (
                    woke and last - first <= lease
                ):
                    after = last - command.ended_at
                    yield trace.offence(3, f"it ran {after:.1f} s after its end was answered")
