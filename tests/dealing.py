"""The order of the tests: the slow ones are divided among some processes of a run.

xdist gives each process an equal part of the list, and lets those that have finished take tests
from the ends of the others' parts. The slow tests come first in the list, and wait more than they
work: one process would run them one by one, long after all others have finished.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

SLOW_WORKERS = 2
"""So many processes begin with the slow tests; the others keep the processors busy meanwhile."""

T = TypeVar("T")


def dealt(items: Iterable[T], is_slow: Callable[[T], bool], workers: int) -> list[T]:
    """The same items; of the equal parts for `workers` the first ones begin with the slow items."""
    items = list(items)
    if workers <= SLOW_WORKERS:
        return items
    slow = [item for item in items if is_slow(item)]
    others = [item for item in items if not is_slow(item)]
    result: list[T] = []
    for worker in range(workers):
        part = slow[worker::SLOW_WORKERS] if worker < SLOW_WORKERS else []
        size = (len(items) - len(result)) // (workers - worker) - len(part)
        result += [*part, *others[: max(size, 0)]]
        del others[: max(size, 0)]
    return [*result, *others]
