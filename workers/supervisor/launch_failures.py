"""Which hosts start the workers that are ordered there, as a pool's leader observes it.

A launch has failed when its worker is gone before it had settled. A host where launches fail always
has the fewest workers, so it would get each order, again and again, while others have free slots:
it is skipped, the longer the more of them failed in a row.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from eventstore.log.survey import Survey

SETTLED_SECONDS: Final = 5.0
"""A worker that is gone before this age counts as a launch that failed."""
BACKOFF_SECONDS: Final = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""For how long after its last order, after so many failures in a row."""


class Launch(Struct):
    """One that was ordered and has not settled."""

    host: str
    alive_since: float = 0.0
    excused: bool = False
    """If it ends now its launch has not failed."""


class LaunchTracker:
    """Those of one pool, since this leader leads. Times by its own clock."""

    def __init__(self) -> None:
        self._unsettled: dict[str, Launch] = {}
        self._last_ordered: dict[str, float] = {}
        self._failures: Counter[str] = Counter()

    def record_ordered(self, hosts: Mapping[str, str], now: float) -> None:
        """Workers were ordered, each on its host; to be called before the next survey."""
        self._unsettled |= {worker_id: Launch(host) for worker_id, host in hosts.items()}
        self._last_ordered |= dict.fromkeys(hosts.values(), now)

    def forget(self, worker_ids: Iterable[str]) -> None:
        """These are to end, however young they are: their launch has not failed."""
        for worker_id in worker_ids:
            self._unsettled.pop(worker_id, None)

    def observe(self, survey: Survey, now: float) -> None:
        """Observe what became of them. Those of a host that end in one round count as one."""
        failed: set[str] = set()
        listed = {o.worker.worker_id: o for o in survey.workers if not o.worker.ended}
        for worker_id, launch in tuple(self._unsettled.items()):
            observed = listed.get(worker_id)
            if observed is None:
                del self._unsettled[worker_id]
                if not launch.excused:
                    failed.add(launch.host)
            elif observed.worker.alive:
                launch.alive_since = launch.alive_since or now
                launch.excused = observed.worker.draining or bool(observed.isolated_agent)
                if now - launch.alive_since > SETTLED_SECONDS:
                    del self._unsettled[worker_id]
                    del self._failures[launch.host]
        self._failures.update(failed)

    def eligible(self, hosts: Iterable[str], now: float) -> list[str]:
        """The hosts that are not skipped."""
        return [host for host in hosts if now >= self._backoff_until(host)]

    def _backoff_until(self, host: str) -> float:
        failed = min(self._failures[host], len(BACKOFF_SECONDS) - 1)
        return self._last_ordered.get(host, 0.0) + BACKOFF_SECONDS[failed]
