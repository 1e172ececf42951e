"""What misbehaving agents did to others and to the host: nothing, or it is said who did what.

Good agents of the same pool never fail on their account. A worker that ends on account of an agent
names it in its reason, at most once for each act. When the misbehaving agents have ended, none of
their processes is there, and the workers have no more threads and descriptors than others.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

from tests.chaos.configuration import STEADY
from tests.chaos.orders import OURS
from tests.chaos.views import select

FAULTS: Final = re.compile(
    r"its lease was not renewed|killed by signal 9|log-recovered|its process is gone"
    r"|exited with code 7[459]|it did not start before its deadline|the zygote does not fork"
)
"""How workers end by the faults of the harness: it stops and kills them, and takes Redis away. One
that did not start, since its supervisor or zygote was killed, had no agents."""
ORDERS: Final = frozenset({"empty", "pool-deleted", "host-shutdown", "owner-gone", "replaced"})
"""Why workers drain in good order."""
FAILED: Final = ("agent.crashed", "agent.unhealthy", "agent.start_failed", "agent.failed")
EXTRA_THREADS: Final = 4
EXTRA_DESCRIPTORS: Final = 8


class Ended(Struct, frozen=True):
    """An end of a worker or a failure of an agent, from the archive."""

    type: str
    subject: str
    reason: str


class Neighbours(Struct):
    """What is known of the pool in which some agents misbehave."""

    misbehaving: set[str] = field(default_factory=set)
    living: list[str] = field(default_factory=list)
    """Those of them that have not ended."""
    acts: Counter[str] = field(default_factory=Counter)
    """By agent."""
    ends: list[Ended] = field(default_factory=list)

    @property
    def summary(self) -> str:
        ended = Counter(_short(one.reason) for one in self.ends if one.type == "worker.lost")
        said = ", ".join(f"{count} x {reason}" for reason, count in ended.most_common(8))
        return (
            f"misbehaving: {len(self.misbehaving)} agents, {self.acts.total()} acts;"
            f" workers lost: {said or 'none'}"
        )

    def offences(self) -> Iterator[str]:
        """What happened to others on their account."""
        named: Counter[str] = Counter()
        for one in self.ends:
            if one.type in FAILED:
                if one.subject not in self.misbehaving:
                    yield f"a good neighbour failed: {one.type} of {one.subject}: {one.reason}"
                continue
            culprits = [agent for agent in self.misbehaving if agent in one.reason]
            named.update(culprits)
            if not culprits and not _by_faults(one):
                yield f"{one.type} of {one.subject} names no agent: {one.reason}"
        for agent, count in named.items():
            if count > self.acts[agent]:
                yield f"agent {agent} ended {count} workers with {self.acts[agent]} acts"


def _by_faults(one: Ended) -> bool:
    ordered = one.reason in ORDERS or one.reason.startswith(OURS)
    return ordered or bool(FAULTS.match(one.reason))


def _short(reason: str) -> str:
    return re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}", "…", reason)[:60]


def read(url: str, folder: Path) -> Neighbours:
    """From the archive, and from the agents' traces."""
    found = Neighbours()
    query = f"SELECT agent_id, status, input FROM {{}}agents WHERE pool_name = '{STEADY}'"
    for agent_id, status, recorded in select(url, query):
        if "misbehave" in json.loads(recorded or "{}"):
            found.misbehaving.add(agent_id)
            if status not in ("terminated", "failed"):
                found.living.append(agent_id)
    kinds = ", ".join(f"'{kind}'" for kind in (*FAILED, "worker.lost", "worker.draining"))
    query = f"SELECT type, subject, data FROM {{}}events WHERE pool = '{STEADY}'"
    rows = select(url, f"{query} AND type IN ({kinds})")
    found.ends = [Ended(kind, subject, _reason(data)) for kind, subject, data in rows]
    for path in folder.glob("*.jsonl"):
        count = sum(1 for line in path.open() if '"act":' in line)
        if count:
            found.acts[path.name.partition(".")[0]] += count
    return found


def _reason(data: str) -> str:
    fields = json.loads(data or "{}")
    error = fields.get("error") or {}
    return str(fields.get("reason") or f"{error.get('type')}: {error.get('message')}")


def worker_pids(client: Any, pool: str) -> list[int]:
    """The processes of a pool's workers."""
    workers = client.zrange(f"pool:{{{pool}}}:processes", 0, -1)
    return [int(client.hget(f"process:{{{pool}}}:{worker}", "pid") or 0) for worker in workers]


def grown(pids: Iterable[int], others: Iterable[int]) -> Iterator[str]:
    """Workers with more threads or descriptors than those on which nobody misbehaved."""
    for kind, extra in (("task", EXTRA_THREADS), ("fd", EXTRA_DESCRIPTORS)):
        most = max((_count(pid, kind) for pid in others), default=0)
        for pid in pids:
            if most and (count := _count(pid, kind)) > most + extra:
                yield f"worker {pid} has {count} of /proc/{pid}/{kind}, others {most}"


def _count(pid: int, kind: str) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/{kind}").iterdir())
    except OSError:
        return 0
