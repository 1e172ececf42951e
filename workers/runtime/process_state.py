"""What a process has only once and all agents of a worker use: its working directory, umask,
resource limits, locale, signal handlers and mask. What one agent changes is put back as soon as its
code yields, and it is named. What a role's import and its set-up have changed by then stays.

The functions that change them are wrapped, so that the agent is known and the check comes at once;
other changes are found later, without a name. The worker's own signal handlers cannot be replaced
by an agent, and it is named too: uvloop's could not be put back. Handlers of other signals are put
back when the incarnation that installed them is gone. Changes of the environment are only reported:
libraries make them, and others may rely on them.
"""

import asyncio
import functools
import locale
import os
import resource
import signal
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import copy_context
from pathlib import Path
from typing import Any, ClassVar, Final

import structlog
from msgspec import Struct

from workers.output.lines import CURRENT, Owner

WARN_SECONDS: Final = 60.0
"""A kind of change by one agent is logged at most once in this time."""
OWN_SIGNALS: Final = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD))
NAMES_MAX: Final = 20
"""How many variables of the environment one line names."""

ENVIRONMENT: Final = "environment"
HANDLERS: Final = "signal handlers"

log = structlog.get_logger("muster.process_state")

_signal, _setitimer = signal.signal, signal.setitimer


def _umask() -> int:
    """Asking the system for it would change it for other threads for a moment."""
    for line in (
        Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    ):
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise OSError("the system does not say the umask")


def _limits() -> dict[str, tuple[int, int]]:
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {name: resource.getrlimit(getattr(resource, name)) for name in names}


def _set_limits(limits: dict[str, tuple[int, int]], *, set_one: Any = resource.setrlimit) -> None:
    for name, limit in limits.items():
        if resource.getrlimit(getattr(resource, name)) != limit:
            set_one(getattr(resource, name), limit)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in OWN_SIGNALS}


def _set_handlers(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler and handler is not None:
            _signal(number, handler)


class Kind(Struct, frozen=True):
    """One kind of state: how to read it and how to put it back, and what changes it."""

    read: Callable[[], Any]
    restore: Callable[[Any], object]
    functions: tuple[tuple[Any, str], ...] = ()


_setlocale = functools.partial(locale.setlocale, locale.LC_ALL)
KINDS: Final[Mapping[str, Kind]] = {
    "working directory": Kind(os.getcwd, os.chdir, ((os, "chdir"), (os, "fchdir"))),
    "umask": Kind(_umask, os.umask, ((os, "umask"),)),
    "resource limits": Kind(_limits, _set_limits, ((resource, "setrlimit"), (resource, "prlimit"))),
    "locale": Kind(_setlocale, _setlocale, ((locale, "setlocale"),)),
    HANDLERS: Kind(_handlers, _set_handlers, ((signal, "signal"), (signal, "set_wakeup_fd"))),
    "signal mask": Kind(
        functools.partial(signal.pthread_sigmask, signal.SIG_BLOCK, ()),
        functools.partial(signal.pthread_sigmask, signal.SIG_SETMASK),
        ((signal, "pthread_sigmask"),),
    ),
}


class ProcessState:
    """Of a process with workers: as it was when the first of them was ready."""

    current: ClassVar["ProcessState | None"] = None
    users: ClassVar[int] = 0

    def __init__(self, on_damage: Callable[[str], None]) -> None:
        self._pid = os.getpid()
        self._loop, self._context = asyncio.get_running_loop(), copy_context()
        self._on_damage = on_damage
        self._saved = {name: _read(kind) for name, kind in KINDS.items()}
        self._environment = dict(os.environ)
        self._culprits: dict[str, Owner] = {}
        self._borrowed: dict[int, tuple[weakref.ref[Owner], Any]] = {}
        """Of signals that agents handle: who did last, and the worker's handler."""
        self._warned: dict[tuple[str, object], float] = {}
        self._check_scheduled = False

    @classmethod
    def start(cls, on_damage: Callable[[str], None]) -> Callable[[], None]:
        """Put back from now on; returns how to end that. `on_damage`: a kind cannot be."""
        cls.users += 1
        if cls.current is None:
            watch()
            cls.current = cls(on_damage)
        return cls._stop

    @classmethod
    def _stop(cls) -> None:
        cls.users -= 1
        if cls.users == 0:
            cls.current = None

    def in_this_process(self) -> bool:
        """Not in a child that was forked: there an agent may change what it likes."""
        return os.getpid() == self._pid

    def check(self) -> None:
        """Put back whatever differs, and report it. On the loop."""
        self._check_scheduled = False
        if threading.current_thread() is not threading.main_thread():
            return
        for name, kind in KINDS.items():
            saved = self._saved[name]
            if saved is not None and (found := _read(kind)) != saved:
                self._put_back(name, kind, found)
        for number, (owner, handler) in tuple(self._borrowed.items()):
            if owner() is None:
                del self._borrowed[number]
                if number == signal.SIGALRM:
                    _setitimer(signal.ITIMER_REAL, 0)
                _signal(number, handler)
        self._report_environment()
        self._culprits.clear()

    def note(self, kind: str, owner: Owner) -> None:
        """An agent has changed something. From any thread."""
        self._culprits.setdefault(kind, owner)
        if not self._check_scheduled:
            self._check_scheduled = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.check, context=self._context)

    def refuse(self, owner: Owner) -> None:
        """An agent has tried to replace what handles the worker's signals."""
        self._warn(HANDLERS, owner)

    def borrow(self, number: int, owner: Owner, handler: Any) -> None:
        """An agent handles a signal that the worker does not use."""
        _, before = self._borrowed.get(number, (None, handler))
        self._borrowed[number] = weakref.ref(owner), before

    def _put_back(self, name: str, kind: Kind, found: Any) -> None:
        self._warn(name, self._culprits.get(name))
        try:
            kind.restore(self._saved[name])
        except (OSError, ValueError, locale.Error) as error:
            log.error("agent.process_state_remains", kind=name, error=str(error))
            self._saved[name] = found
            self._on_damage(name)

    def _warn(self, name: str, owner: Owner | None) -> None:
        now, ids = time.monotonic(), owner.ids if owner is not None else {}
        key = name, ids.get("agent_id")
        self._warned = {one: at for one, at in self._warned.items() if now - at < WARN_SECONDS}
        if key not in self._warned:
            self._warned[key] = now
            log.warning("agent.process_state_restored", kind=name, **ids)

    def _report_environment(self) -> None:
        before, now = self._environment, dict(os.environ)
        if before == now:
            return
        self._environment = now
        changed = [name for name in before.keys() & now if before[name] != now[name]]
        names = {"added": now.keys() - before, "removed": before.keys() - now, "changed": changed}
        shown = {how: sorted(some)[:NAMES_MAX] for how, some in names.items() if some}
        owner = self._culprits.get(ENVIRONMENT)
        log.info("agent.environment_changed", **shown, **(owner.ids if owner else {}))


def _read(kind: Kind) -> Any:
    """None where it cannot be read: such as a working directory that was removed."""
    with suppress(OSError, locale.Error):
        return kind.read()
    return None


# ---- the functions that change it --------------------------------------------------------------


@functools.cache
def watch() -> None:
    """Wrap them. A second call does nothing."""
    watched = {name: kind.functions for name, kind in KINDS.items()}
    watched[ENVIRONMENT] = ((os, "putenv"), (os, "unsetenv"))
    for kind, functions in watched.items():
        for module, name in functions:
            if hasattr(module, name):
                setattr(module, name, _watched(kind, getattr(module, name)))


def _watched(kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        owner, state = CURRENT.get(), ProcessState.current
        if owner is None or state is None or not state.in_this_process():
            return function(*arguments, **options)
        if kind == HANDLERS:
            number = options.get("signalnum", *arguments[:1]) if function is _signal else None
            if number is None or number in OWN_SIGNALS:
                state.refuse(owner)
                return -1 if number is None else signal.getsignal(number)
            state.borrow(number, owner, signal.getsignal(number))
            return function(*arguments, **options)
        try:
            return function(*arguments, **options)
        finally:
            state.note(kind, owner)

    return wrapper
