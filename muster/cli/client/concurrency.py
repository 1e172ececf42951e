"""Many calls at once, of which Ctrl-C waits for none: an executor's threads are waited for."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Final, TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS_MAX: Final = 32


def run_concurrently(
    call: Callable[[T], R], items: Sequence[T], advance: Callable[[], None] = lambda: None
) -> list[R]:
    """What the call comes to for each item, in their order; raises what one raises.

    `advance` is called, by whoever asks, whenever one is done.
    """
    todo = deque(enumerate(items))
    done: SimpleQueue[tuple[int, Future[R]]] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                number, item = todo.popleft()
            except IndexError:  # another one was quicker
                return
            outcome: Future[R] = Future()
            try:
                outcome.set_result(call(item))
            except BaseException as error:  # noqa: BLE001  (raised by whoever asks)
                outcome.set_exception(error)
            done.put((number, outcome))

    found: dict[int, R] = {}
    try:
        for _ in range(min(len(items), THREADS_MAX)):
            Thread(target=work, daemon=True).start()
        for _ in items:
            number, outcome = done.get()
            found[number] = outcome.result()
            advance()
    finally:
        todo.clear()
    return [found[number] for number in range(len(items))]
