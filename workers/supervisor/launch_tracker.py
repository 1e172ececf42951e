"""Which launches of a pool have failed, and which hosts are skipped therefore.

A launch has failed when its worker is gone before it had settled. A host where launches fail always
has the fewest workers, so it would get each order, again and again, while others have free slots:
it is skipped, the longer the more of them failed in a row. The same holds, for longer, for a host
whose workers end because they cannot make the agents of the pool: the role is not declared there,
or its import fails. When a host joins again, with other roles perhaps, it is tried again.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from eventstore.language.workers import is_role_problem
from eventstore.log.survey import Survey

SETTLED_SECONDS: Final = 5.0
"""A worker that is gone before this age counts as a launch that failed."""
BACKOFF_SECONDS: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""For how long after its last order, after so many failures in a row."""
ROLE_BACKOFF_SECONDS: Final = (0.0, 30.0, 60.0, 120.0, 300.0)
"""The same where the class of the pool's agents was not available."""


class Launch(Struct):
    """One that was ordered and has not settled."""

    host: str
    ordered_at: float
    alive_since: float = 0.0
    excused: bool = False
    """If it ends now its launch has not failed."""


class LaunchTracker:
    """The launches of one pool, since this leader leads. Times by its own clock."""

    def __init__(self) -> None:
        self._unsettled: dict[str, Launch] = {}
        self._last_ordered: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._role_problems: dict[str, list[str]] = {}
        self._joined: dict[str, int] = {}
        self._slowest_start = 0.0

    def slowest_start_ms(self) -> int:
        """How long the slowest of those took that were ready since the last call; 0: none was."""
        seconds, self._slowest_start = self._slowest_start, 0.0
        return int(seconds * 1000)

    def record_ordered(self, hosts: Mapping[str, str], now: float) -> None:
        """Workers were ordered, each on its host; to be called before the next survey."""
        self._unsettled |= {worker_id: Launch(host, now) for worker_id, host in hosts.items()}
        self._last_ordered |= dict.fromkeys(hosts.values(), now)

    def forget(self, worker_ids: Iterable[str]) -> None:
        """These are to end, however young they are: their launch has not failed."""
        for worker_id in worker_ids:
            self._unsettled.pop(worker_id, None)

    def forgive_rejoined(self, joined: Mapping[str, int]) -> None:
        """`joined`: hosts, and when they did. Nothing is known any more of those that have left."""
        for host, at_ms in self._joined.items():
            if joined.get(host) != at_ms:
                self._forgive(host)
                self._last_ordered.pop(host, None)
                self.forget([name for name, one in self._unsettled.items() if one.host == host])
        self._joined = dict(joined)

    def record_role_problem(self, host: str, reason: str) -> None:
        """A launch that failed there did so because of the pool's role."""
        known = self._role_problems.get(host, ())
        self._role_problems[host] = [*known, reason][-len(ROLE_BACKOFF_SECONDS) :]

    def role_problem(self, joined: Iterable[str]) -> str:
        """Why no host can run agents of the pool's role; empty if one can, or may."""
        problems = [self._role_problems.get(host) for host in joined]
        return problems[0][-1] if problems and problems[0] and all(problems) else ""

    def failing(self, host: str) -> bool:
        """Whether its last launch has failed."""
        return self._failures[host] > 0

    def _forgive(self, host: str) -> None:
        del self._failures[host]
        self._role_problems.pop(host, None)

    def observe(self, survey: Survey, now: float) -> dict[str, str]:
        """Observe what became of them; returns those that failed, with their hosts.

        Those of a host that end in one round count as one.
        """
        failed: dict[str, str] = {}
        listed = {o.worker.worker_id: o for o in survey.workers if not o.worker.ended}
        for worker_id, launch in tuple(self._unsettled.items()):
            observed = listed.get(worker_id)
            if observed is None or is_role_problem(observed.worker.reason):
                del self._unsettled[worker_id]
                if not launch.excused:
                    failed[worker_id] = launch.host
            elif observed.worker.alive:
                if observed.preparing:  # what ends it before it is ready is a failed launch
                    continue
                if not launch.alive_since:
                    launch.alive_since = now
                    self._slowest_start = max(self._slowest_start, now - launch.ordered_at)
                launch.excused = observed.worker.draining or bool(observed.isolated_agent)
                if now - launch.alive_since > SETTLED_SECONDS:
                    del self._unsettled[worker_id]
                    self._forgive(launch.host)
        self._failures.update(set(failed.values()))
        return failed

    def eligible(self, hosts: Iterable[str], now: float) -> list[str]:
        """The hosts that are not skipped."""
        return [host for host in hosts if now >= self._backoff_until(host)]

    def _backoff_until(self, host: str) -> float:
        failed = min(self._failures[host], len(BACKOFF_SECONDS) - 1)
        problems = len(self._role_problems.get(host, ())[: len(ROLE_BACKOFF_SECONDS) - 1])
        seconds = max(BACKOFF_SECONDS[failed], ROLE_BACKOFF_SECONDS[problems])
        return self._last_ordered.get(host, 0.0) + seconds
