"""Agents that count are moved and killed, and each goes on from what it saved last.

    python -m tests.moving [--agents 200] [--moves 10] [--seed 1]

Every worker is drained in turn, or killed with SIGKILL, until each agent was moved so often. What
agents write to files of their own, as they save and as they are restored, is then compared with the
events: a restored state is the last one that was recorded before its claim.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psutil
from msgspec import Struct

from tests.chaos.judge import judge
from tests.e2e.system import System
from tests.waiting import until

POOL: Final = "counters"
CONFIG: Final = """\
[roles.counter]
agent = "counting:Counter"

[pools.counters]
role = "counter"
max_workers = 60
backoff_min_seconds = 0.1
backoff_max_seconds = 0.2
suspicion_window_seconds = 0
stop_grace_seconds = 5
"""
CODE: Final = '''\
"""Counts, and notes what it saves and what it gets."""

import asyncio, hashlib, random
from pathlib import Path
from muster import Agent, Context

class Counter(Agent):
    def __init__(self):
        self.count, self.restored = 0, b""

    async def restore(self, state):
        self.count, self.restored = int(state.split()[0]), state

    async def start(self, context: Context):
        self.file = open(Path(__file__).parent / "notes" / context.agent_id, "a", buffering=1)
        self.incarnation = context.incarnation
        self.note("restored", self.restored)

    def note(self, what, state):
        digest = hashlib.sha256(state).hexdigest() if state else "-"
        self.file.write(f"{what} {self.incarnation} {self.count} {digest}\\n")

    async def run(self, context: Context):
        while not context.stopping.is_set():
            await asyncio.sleep(random.uniform(0.05, 0.5))
            await context.save()
            self.note("stored", self.saved)

    async def save(self):
        self.count += 1
        self.saved = b"%d %s" % (self.count, random.randbytes(random.randrange(2000)))
        self.note("saves", self.saved)
        return self.saved
'''


class Outcome(Struct):
    """What was seen."""

    agents: int = 0
    kills: int = 0
    drains: int = 0
    restores: int = 0
    saves: int = 0
    fewest_moves: int = 0
    seconds: float = 0.0
    wrong: list[str] = []


async def run(folder: Path, agents: int, moves: int, seed: int) -> Outcome:
    (folder / "notes").mkdir()
    (folder / "counting.py").write_text(CODE)
    draw, outcome, began = random.Random(seed), Outcome(agents=agents), time.monotonic()
    async with System(folder, config=CONFIG) as system:
        ids = await asyncio.gather(*(_spawn(system, number) for number in range(agents)))
        await system.running(agents, timeout=120)
        while (fewest := await _fewest_moves(system)) < moves:
            print(f"{time.monotonic() - began:6.1f} s: each agent was moved {fewest} times or more")
            for worker in await _workers(system):
                if draw.random() < 0.25:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        psutil.Process(worker["pid"]).send_signal(signal.SIGKILL)
                        outcome.kills += 1
                else:
                    path = f"/api/v1/agents/workers/{worker['worker_id']}/drain"
                    outcome.drains += (await system.call("POST", path, {}))[0] < 300
                await asyncio.sleep(draw.uniform(0, 0.1))
            await system.running(agents, timeout=120)
        outcome.fewest_moves = fewest
        await system.verify()
        outcome.wrong += map(str, judge(system.redis_url, views=system.views()))
        await _copied(system, agents)
    outcome.wrong += _compare(folder, system.views(), ids, outcome)
    outcome.seconds = time.monotonic() - began
    return outcome


async def _spawn(system: System, number: int) -> str:
    request = {
        "project_id": f"p{number % 7}",
        "role_type": "counter",
        "pool_name": POOL,
        "max_idle_time": None,
    }
    headers = {"Prefer": "respond-async"}
    status, body = await system.call("POST", "/api/v1/agents/spawn", request, headers=headers)
    assert status == 202, body
    return str(body["agent_id"])


async def _fewest_moves(system: System) -> int:
    return min(agent["incarnation"] for agent in await system.agents()) - 1


async def _workers(system: System) -> list[Any]:
    listed = (await system.get("/api/v1/agents/monitor/dashboard"))["workers"]
    return [one for one in listed if one["status"] == "active" and one["pid"]]


async def _copied(system: System, agents: int) -> None:
    """Wait until the database has a copy of each agent's state."""

    def all_there() -> bool:
        with contextlib.closing(sqlite3.connect(system.views())) as database:
            found = database.execute("SELECT count(*) FROM agent_states").fetchone()
        return bool(found[0] == agents)

    await until(all_there, timeout=30, what="all states are copied")


def _compare(folder: Path, views: str, ids: list[str], outcome: Outcome) -> Iterator[str]:
    """What agents noted with what was recorded."""
    with contextlib.closing(sqlite3.connect(views)) as database:
        for agent_id in ids:
            query = "SELECT type, incarnation, data FROM events WHERE subject = ? ORDER BY seq"
            recorded = database.execute(query, [agent_id]).fetchall()
            lines = (folder / "notes" / agent_id).read_text().splitlines()
            notes = [line.split() for line in lines if len(line.split()) == 4]
            yield from _compare_agent(agent_id, recorded, notes, outcome)


def _compare_agent(
    agent_id: str, recorded: list[tuple[str, int, str]], notes: list[list[str]], outcome: Outcome
) -> Iterator[str]:
    last, expected, digests = "-", dict[int, str](), set[str]()
    for kind, incarnation, data in recorded:
        if kind == "agent.saved":
            last = json.loads(data)["sha256"]
            digests.add(last)
            outcome.saves += 1
        elif kind == "agent.claimed":
            expected[incarnation] = last
        elif kind == "agent.state_lost":
            yield f"{agent_id}: its state was lost"
    acknowledged = 0
    for what, number, count, digest in notes:
        if what == "stored":
            acknowledged = int(count)
            if digest not in digests:
                yield f"{agent_id}: save {count} was acknowledged, and is not recorded"
        elif what == "restored":
            outcome.restores += digest != "-"
            if digest != expected.get(int(number)):
                yield f"{agent_id}: incarnation {number} got {digest}, not what was saved last"
            if int(count) < acknowledged:
                yield f"{agent_id}: it got {count}, but {acknowledged} was acknowledged"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.moving", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--agents", type=int, default=200)
    parser.add_argument("--moves", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = asyncio.run(run(Path(folder), asked.agents, asked.moves, asked.seed))
    for line in outcome.wrong[:20]:
        print(line)
    print(
        f"{outcome.agents} agents, each moved {outcome.fewest_moves} times or more by"
        f" {outcome.drains} drains and {outcome.kills} kills in {outcome.seconds:.0f} s:"
        f" {outcome.saves} saves, {outcome.restores} restores, {len(outcome.wrong)} wrong"
    )
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
