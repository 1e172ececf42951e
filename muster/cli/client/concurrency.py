"""Many calls at once. Ctrl-C ends them at once; the threads of an executor would be joined."""

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
    """The results of `call` for each item, in order; raises the first error of a call.

    `advance` is called in the caller's thread after each result.
    """
    todo = deque(enumerate(items))
    done: SimpleQueue[tuple[int, Future[R]]] = SimpleQueue()

    def work() -> None:
        while todo:
            try:
                number, item = todo.popleft()
            except IndexError:  # another thread was faster
                return
            outcome: Future[R] = Future()
            try:
                outcome.set_result(call(item))
            except BaseException as error:  # noqa: BLE001  (raised in the caller)
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
