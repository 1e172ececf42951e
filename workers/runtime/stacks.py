"""Where an agent's code hangs: the stack of a task that waits, or of a thread.

In the form of a traceback, the innermost frame last, without frames of Muster.
"""

import asyncio
import gc
import sys
import traceback
from collections.abc import Iterable, Iterator
from inspect import CO_COROUTINE
from traceback import walk_stack
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

from workers.runtime.errors import FRAMES_MAX, LAST, OWN_FOLDER, readable

DEPTH_MAX: Final = 1_000
"""Coroutines that await one another."""

_WAITING: Final = (asyncio.Future, CoroutineType, GeneratorType, AsyncGeneratorType)


def task_stack(task: "asyncio.Task[Any]") -> str:
    """Where a task waits, through all that it awaits."""
    return readable(lambda: _format(_awaited_frames(task)), "stack", LAST)


def thread_stack(thread_id: int) -> str:
    """Where a thread is."""
    frame = sys._current_frames().get(thread_id)
    frames = [found for found, _ in walk_stack(frame)] if frame else []
    return readable(lambda: _format(reversed(frames)), "stack", LAST)


def _awaited_frames(task: "asyncio.Task[Any]") -> Iterator[FrameType]:
    awaited: Any = task
    for _ in range(DEPTH_MAX):
        for kind in ("cr", "gi", "ag"):
            if (frame := getattr(awaited, f"{kind}_frame", None)) is not None:
                yield frame
        awaited = _awaited_by(awaited)
        if awaited is None:
            return


def _awaited_by(waiting: Any) -> Any:
    if isinstance(waiting, asyncio.Task):
        return None if waiting.done() else waiting.get_coro()
    if (children := getattr(waiting, "_children", None)) is not None:  # of asyncio.gather
        return next((child for child in children if not child.done()), None)
    for name in ("cr_await", "gi_yieldfrom", "ag_await"):
        if hasattr(waiting, name):
            return getattr(waiting, name)
    # What is between two coroutines names neither, but refers to the one that it waits for.
    return next((one for one in gc.get_referents(waiting) if isinstance(one, _WAITING)), None)


def _format(frames: Iterable[FrameType]) -> str:
    found = [f for f in frames if not f.f_code.co_filename.startswith(OWN_FOLDER)]
    lines = ((frame, frame.f_lineno) for frame in found[-FRAMES_MAX:])
    return "".join(traceback.StackSummary.extract(iter(lines)).format())


def caller_of_task() -> CodeType | None:
    """Called in a task: the code that has called it, of its loop or of what runs that."""
    frames = [frame for frame, _ in walk_stack(sys._getframe())]
    tasks = [n for n, frame in enumerate(frames) if frame.f_code.co_flags & CO_COROUTINE]
    outer = frames[tasks[-1] + 1 :] if tasks else []
    return outer[0].f_code if outer else None
