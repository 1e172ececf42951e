"""Children that agents fork: with default signal handling, and with nothing of the worker's.

A forked child has a copy of the worker: its signal handlers and the descriptor that wakes its event
loop, so that a signal to the child would drain the worker; its connections to Redis; the kernel's
list of what its loop waits for, which is shared; its exit hooks. None of that may be used, however
the child was forked: `multiprocessing`, a process pool, `os.fork`, `pty`. Signals are blocked from
before the fork until all is reset, because a child may be signalled before it has run at all.

A child of `os.fork` that returns to the event loop, or to the thread pool, that called its code
would go on as a second worker: it is ended there.
"""

import asyncio
import atexit
import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures.thread import _WorkItem
from traceback import walk_stack
from types import CodeType, FrameType
from typing import Any, Final

from eventstore.connection.clients import open_sockets
from workers.host.process_tree import name_process
from workers.output.lines import Output
from workers.runtime.stacks import caller_of_task

EXIT_RETURNED: Final = 70
"""Of a child that returned to what called the agent's code."""
PR_SET_PDEATHSIG: Final = 1
"""From linux/prctl.h."""
RETURNED: Final = (
    "a process that an agent forked returned to what had called the agent, and was ended;"
    " end it with os._exit(), or use multiprocessing or subprocess\n"
)
EXITS_ITSELF: Final = "multiprocessing/process.py", "_bootstrap"
"""From the call of this function on a child never returns."""

_loops: list[tuple[asyncio.AbstractEventLoop, Output | None]] = []
"""Of each worker in this process, with its output."""
_callers: set[CodeType] = {asyncio.Handle._run.__code__, _WorkItem.run.__code__}
"""What calls agents' code, on the loop and in a pool of threads."""
_forking = threading.local()
_prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None


def protect(loop: asyncio.AbstractEventLoop, output: Output | None) -> Callable[[], None]:
    """Reset what is forked from now on; called in a task of the loop. Returns how to end that."""
    _loops.append((loop, output))
    _callers.update(code for code in (caller_of_task(),) if code is not None)
    _register()
    return lambda: _loops.remove((loop, output))


@functools.cache
def _register() -> None:
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_reset
    )


def _block_signals() -> None:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    by_main_thread = threading.current_thread() is threading.main_thread()
    _forking.saved = mask, by_main_thread, os.getpid()


def _unblock_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.saved[0])


def _reset() -> None:
    """In the child."""
    _, by_main_thread, parent = _forking.saved
    if not _loops:
        _unblock_signals()
        return
    wakeup = signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.SIG_IGN):
            signal.signal(number, signal.SIG_DFL)
    _neutralise_descriptors(wakeup)
    for _, output in _loops:
        if output is not None:
            output.reset_after_fork()
    _loops.clear()
    asyncio._set_running_loop(None)
    atexit._clear()
    name_process("muster-child")
    if by_main_thread and _prctl is not None:  # the kernel watches the thread that forked
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(EXIT_RETURNED)
    _unblock_signals()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # raised before, it would be lost here
    _end_on_return()


def _neutralise_descriptors(wakeup: int) -> None:
    """Each becomes /dev/null: closed numbers would be used again by others."""
    loops: set[Any] = {loop for loop, _ in _loops}
    selectors = (getattr(loop, "_selector", None) for loop in loops)
    numbers = {selector.fileno() for selector in selectors if selector is not None}
    numbers |= {loop._get_backend_id() for loop in loops if hasattr(loop, "_get_backend_id")}
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in {wakeup, *numbers, *open_sockets()} - {-1}:
        os.dup2(null, number, inheritable=False)
    os.close(null)


def _end_on_return() -> None:
    """End the child when the code that forked it has returned, or awaits something."""
    frames = [frame for frame, _ in walk_stack(sys._getframe())]
    called = [frame for frame in frames if frame.f_back and frame.f_back.f_code in _callers]
    (file, function), profile = EXITS_ITSELF, sys.getprofile()

    def on_event(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == function and code.co_filename.endswith(file):
            sys.setprofile(profile)
        elif event == "return" and frame in called:
            os.write(2, RETURNED.encode())
            os._exit(EXIT_RETURNED)

    if called:
        sys.setprofile(on_event)
