"""What this gateway has observed since it started: the counters of `/metrics`.

Labels are pools, reasons, routes: never the id of an agent or worker, of which there is no end.
"""

import time
from bisect import bisect_left
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct

from eventstore.language.events import PoolScalingDecided
from eventstore.log.reader import Entry

TRACKED_MAX = 50_000
START_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HTTP_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Reason(Struct, frozen=True):
    reason: str = ""


class Histogram:
    """Counts by upper bound, as Prometheus expects them."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Observations:
    """A listener of the tail, and the count of requests."""

    def __init__(self) -> None:
        self.restarts: Counter[tuple[str, str]] = Counter()
        self.decisions: dict[str, PoolScalingDecided] = {}
        self.schedule_to_start = defaultdict[str, Histogram](partial(Histogram, START_BUCKETS))
        self.requests: Counter[tuple[str, str, int]] = Counter()
        of_http = partial(Histogram, HTTP_BUCKETS)
        self.durations = defaultdict[tuple[str, str], Histogram](of_http)
        self.durability_levels: Counter[tuple[str, str]] = Counter()
        """Commands by the level of durability requested, and the one reached."""
        self.loop_lag_seconds = 0.0
        self._faults: dict[str, tuple[str, int]] = {}
        self._requested_ms: OrderedDict[str, int] = OrderedDict()

    def consume(self, pool: str, entries: Sequence[Entry]) -> None:
        for _, fields in entries:
            match fields[1]:
                case b"agent.requested":
                    self._requested_ms[fields[9].decode()] = int(fields[25])
                    if len(self._requested_ms) > TRACKED_MAX:
                        self._requested_ms.popitem(last=False)
                case b"agent.started":
                    requested_ms = self._requested_ms.pop(fields[9].decode(), None)
                    if requested_ms is not None:
                        seconds = (int(fields[25]) - requested_ms) / 1000
                        self.schedule_to_start[pool].observe(seconds)
                case b"agent.terminated" | b"agent.failed":
                    self._requested_ms.pop(fields[9].decode(), None)
                case b"agent.restarting" | b"agent.released":
                    reason = "unknown"
                    with suppress(msgspec.DecodeError, RecursionError):
                        reason = msgspec.json.decode(fields[27], type=Reason).reason
                    self.restarts[pool, reason.partition(":")[0]] += 1
                case b"pool.scaling_decided":
                    # One of a newer version may not be readable: the last known remains.
                    with suppress(msgspec.DecodeError, RecursionError):
                        decision = msgspec.json.decode(fields[27], type=PoolScalingDecided)
                        self.decisions[pool] = decision
                case _:
                    pass

    def forget(self, pool: str) -> None:
        """A pool that was removed has no series any more."""
        self.decisions.pop(pool, None)
        self.schedule_to_start.pop(pool, None)
        self._faults.pop(f"views:{pool}", None)
        for key in [key for key in self.restarts if key[0] == pool]:
            del self.restarts[key]

    def since(self, subject: str, fault: str) -> int:
        """When this fault of a subject was first observed, in ms; 0 for none (empty)."""
        if not fault:
            self._faults.pop(subject, None)
            return 0
        known_fault, since_ms = self._faults.get(subject, ("", 0))
        if known_fault != fault:
            since_ms = int(time.time() * 1000)
            self._faults[subject] = fault, since_ms
        return since_ms

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self.requests[method, route, status] += 1
        self.durations[method, route].observe(seconds)
