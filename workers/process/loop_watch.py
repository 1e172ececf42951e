"""Whether a worker's event loop turns, and where it hangs if it does not.

The guard of the lease looks every second while an agent is busy, else less often, whether the loop
waits for something to do: its thread is then in no Python code but what runs the loop. If it is
not, the loop is asked to turn; how long that takes is its lag. It also turns to hear of each
renewal. A loop that has not turned for `STALL_SECONDS` is stalled: where, and in which agent's
task, is read from its thread's stack. It turns again once it has done so for `GOOD_SECONDS`.

Code that does not release the interpreter's lock stalls this watch too. It is noticed afterwards,
because the guard comes late; the first thing that it then sees is most often still that code.
"""

import asyncio
import contextlib
import site
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from pathlib import Path
from traceback import walk_stack
from types import FrameType
from typing import Any, Final

import structlog
from msgspec import Struct

from eventstore.log.survey import PREPARING
from workers.host.processes import boot_seconds
from workers.runtime.stacks import caller_of_task

STALL_SECONDS: Final = 1.0
GOOD_SECONDS: Final = 3.0
"""How long a loop that was stalled has to turn until it counts as turning."""
ANSWER_SECONDS: Final = 0.1
"""How long a thread waits for the loop's answer."""
WARN_SECONDS: Final = 30.0
"""At most one warning in this time."""
FRAMES_MAX: Final = 20
OUTSIDE: Final = "stalled, not in the code of an agent: its host may be busy"
WHERE_MAX: Final = 300
"""Characters of the sentence that says where it hangs."""

_OWN: Final = str(Path(__file__).resolve().parents[1])
_LIBRARIES: Final = tuple(
    {
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        site.getusersitepackages(),
        "<frozen",
        "<string>",  # as `python -c` starts a worker
    }
)
"""Of the standard library and of what is installed: seldom what an agent's author can change."""

log = structlog.get_logger("muster.lease")


class Place(Struct, frozen=True):
    """Where a loop hangs."""

    text: str
    """Like `stalled in acme/developer.py:12 run (agent 0192…)`."""
    agent_id: str = ""
    """Whose task is current; empty if none, or it is no agent's."""
    frames: tuple[str, ...] = ()
    """`file:line function` of each frame, the innermost last."""


class LoopWatch:
    """Watches the loop on which it is started.

    `ask`, `look`, `call` and `observe` are called from threads, and so may be the `snapshot`.
    """

    def __init__(
        self,
        worker_id: str,
        snapshot: Callable[[float], bytes],
        agent_of: Callable[["asyncio.Task[object]"], str],
        on_change: Callable[[], None],
    ) -> None:
        self.snapshot = b"{}"
        """Of the last time it was asked, or was seen to wait."""
        self.stalled_in = ""
        """Where it hangs, for the log of the pool; empty while it turns."""
        self.preparing = ""
        """What the worker does before it can claim; its loop need not turn meanwhile."""
        self._worker_id = worker_id
        self._new_snapshot, self._agent_of, self._on_change = snapshot, agent_of, on_change
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._answered.set()
        self._asked_at = boot_seconds()
        self._stalled_at = 0.0
        self._warned_at = -WARN_SECONDS

    def start(self, preparing: str = "") -> None:
        """Watch the running loop."""
        self.preparing = preparing
        self.stalled_in = PREPARING + preparing if preparing else ""
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        running = caller_of_task()  # asyncio's own loops wait in Python code
        self._runs_loop = None if running is asyncio.Handle._run.__code__ else running
        self.snapshot = self._new_snapshot(0.0)
        self._observed = boot_seconds(), time.process_time()

    def prepare(self, phase: str) -> None:
        """(On the loop.) The worker does this before it can claim; empty: it can from now on."""
        self._answered.set()  # of what was asked during an import the next answer comes too late
        self.preparing = phase
        self._change(PREPARING + phase if phase else "")

    def look(self, wait_seconds: float) -> float:
        """Before a renewal, whose heartbeat has a snapshot of now; otherwise as `ask`."""
        if not self._rests():
            return self.ask(wait_seconds)
        with contextlib.suppress(Exception):  # the loop has turned since: the last one will do
            self.snapshot = self._new_snapshot(0.0)
        return 0.0

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call it on the loop, which is asked to turn by that, too."""
        with self._lock:
            if self._answered.is_set():
                self._answered.clear()
                self._asked_at = boot_seconds()
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._answer, self._asked_at, function, *arguments)

    def ask(self, wait_seconds: float = 0.0) -> float:
        """Ask the loop to turn, and wait so long for that; for how long it has not, else 0."""
        with self._lock:
            if self._answered.is_set():
                self._answered.clear()
                self._asked_at = boot_seconds()
                with contextlib.suppress(RuntimeError):  # it is closed
                    self._loop.call_soon_threadsafe(self._answer, self._asked_at)
        if self._answered.wait(wait_seconds):
            return 0.0
        return boot_seconds() - self._asked_at

    def _answer(
        self, asked_at: float, function: Callable[..., object] | None = None, *arguments: Any
    ) -> None:
        """(On the loop.)"""
        if function is None:
            self.snapshot = self._new_snapshot(boot_seconds() - asked_at)
        self._answered.set()
        if function is not None:
            function(*arguments)

    def observe(self, due_seconds: float) -> None:
        """Check that the loop turns. `due_seconds`: how long after the last call this was due."""
        now, cpu = boot_seconds(), time.process_time()
        elapsed, used = now - self._observed[0], cpu - self._observed[1]
        self._observed = now, cpu
        if elapsed - due_seconds >= STALL_SECONDS and self._may_warn(now):
            fields = self._fields(self.place(), elapsed)
            log.warning("worker.process_stalled", **fields, cpu_seconds=round(used, 1))
        waited = 0.0 if self._rests() else self.ask(ANSWER_SECONDS)
        if self.preparing:
            self._change(PREPARING + self.preparing)
        elif waited >= STALL_SECONDS:
            self._stalled_at = now
            place, is_new = self.place(), not self.stalled_in
            self._change(place.text)
            if is_new and self._may_warn(now):
                log.warning("worker.loop_stalled", **self._fields(place, waited))
        elif now - self._stalled_at >= GOOD_SECONDS:
            self._change("")

    def _rests(self) -> bool:
        """Whether it waits, as far as can be seen; one that has still to answer may hang in C."""
        frame = sys._current_frames().get(self._thread)
        return frame is not None and frame.f_code is self._runs_loop and self._answered.is_set()

    def report_hang(self, seconds: float) -> None:
        """It hangs for so long that the lease is to lapse."""
        place = self.place()
        self.stalled_in = place.text
        if self.preparing:
            self.stalled_in = f"import-failed: {self.preparing} takes too long; {place.text}"
        log.error("worker.loop_stalled", **self._fields(place, seconds))

    def _change(self, stalled_in: str) -> None:
        """A stall and its end are reported at once, another place with the next renewal."""
        changed = bool(stalled_in) != bool(self.stalled_in)
        self.stalled_in = stalled_in
        if changed:
            self._on_change()

    def _may_warn(self, now: float) -> bool:
        allowed = now - self._warned_at >= WARN_SECONDS
        self._warned_at = now if allowed else self._warned_at
        return allowed

    def _fields(self, place: Place, seconds: float) -> dict[str, object]:
        ids = {"worker_id": self._worker_id} | (
            {"agent_id": place.agent_id} if place.agent_id else {}
        )
        return {**ids, "seconds": round(seconds, 1), "at": place.text, "frames": place.frames}

    def place(self) -> Place:
        """Where the loop's thread is."""
        innermost = sys._current_frames().get(self._thread)
        frames = [frame for frame, _ in walk_stack(innermost)] if innermost is not None else []
        task = asyncio.current_task(self._loop)
        agent_id = self._agent_of(task) if task is not None else ""
        foreign = [f for f in frames if not f.f_code.co_filename.startswith(_OWN)]
        users = [f for f in foreign if not f.f_code.co_filename.startswith(_LIBRARIES)]
        named = [*users, *frames][:1] if agent_id or users else []
        text = f"stalled in {_describe(named[0])}" if named else OUTSIDE
        whose = f" (agent {agent_id})" if agent_id else ""
        listed = tuple(_describe(f) for f in reversed((foreign or frames)[:FRAMES_MAX]))
        return Place(text[: WHERE_MAX - len(whose)] + whose, agent_id, listed)


def _describe(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
