"""Loading the classes that users declare as roles.

Classes are imported once, before workers are forked, so a failing import ends the start, with its
traceback. Users' code is in a folder that goes *last* on `sys.path`: it can never replace one of
our packages, whose names are generic, and a folder that tries is refused. A fork copies only the
thread that forked, and shares connections; so an import that starts or opens some is reported: its
role must be imported after the fork instead.
"""

import contextlib
import importlib
import sys
import threading
import traceback
from pathlib import Path
from typing import Final

from msgspec import Struct

from eventstore.errors import ConfigurationError
from workers.api.agent import Agent

RESERVED_PACKAGES: Final = ("eventstore", "projector", "workers", "gateway", "muster")

TRACE_MAX: Final = 100_000
"""Characters of an import's traceback: the last ones have the cause."""

_THREADS_FOLDER: Final = Path("/proc/self/task")


class LoadedRole(Struct, frozen=True):
    """A role's class, and what its import left that a fork does not copy, or shares."""

    role: type[Agent]
    cannot_fork: tuple[str, ...] = ()
    """Names of threads, and `a connection` for each socket."""


def load(path: str, app_dir: str = "") -> LoadedRole:
    """Import `package.module:Class`. Raises `ConfigurationError` with the cause.

    `app_dir`: the folder of the user's code; empty for none.
    """
    module_name, colon, class_name = path.partition(":")
    if not (module_name and colon and class_name):
        raise ConfigurationError(
            f"agent {path!r}: expected the form 'package.module:Class', like 'acme.developer:"
            "Developer'"
        )
    if app_dir:
        add_to_path(app_dir)
    before, counted, sockets = set(threading.enumerate()), _count_threads(), _count_sockets()
    role = _import_class(path, module_name, class_name)
    started = sorted(thread.name for thread in threading.enumerate() if thread not in before)
    unnamed = _count_threads() - counted - len(started)
    opened = ("a connection",) * (_count_sockets() - sockets)
    return LoadedRole(role, (*started, *(("unnamed",) * max(unnamed, 0)), *opened))


def add_to_path(app_dir: str) -> None:
    """Put a folder last on `sys.path`. Refuses one with a package that has one of our names."""
    folder = Path(app_dir).resolve()
    if not folder.is_dir():
        raise ConfigurationError(f"the folder for agents, {folder}, is not there")
    for name in RESERVED_PACKAGES if folder != Path(__file__).resolve().parents[2] else ():
        if (folder / f"{name}.py").exists() or (folder / name / "__init__.py").exists():
            raise ConfigurationError(
                f"{folder} has a module named {name!r}, which is one of Muster's own: rename it"
            )
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_class(path: str, module_name: str, class_name: str) -> type[Agent]:
    try:
        found: object = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever an import raises, SystemExit too
        raise ConfigurationError(
            f"agent {path!r}: importing {module_name} failed\n{_trace(error)}"
        ) from error
    for name in class_name.split("."):
        found = getattr(found, name, None)
    if found is None:
        raise ConfigurationError(f"agent {path!r}: {module_name} has no {class_name!r}")
    if not isinstance(found, type) or not issubclass(found, Agent):
        raise ConfigurationError(
            f"agent {path!r}: {class_name} must be a class derived from muster.Agent"
        )
    return found


def _trace(error: BaseException) -> str:
    """The traceback from the user's module on: neither this file nor the import system."""
    skipped = (__file__, importlib.__file__)
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename not in skipped
        and not frame.f_code.co_filename.startswith("<frozen importlib")
    ]
    summary = traceback.TracebackException.from_exception(error)
    summary.stack = traceback.StackSummary.extract(iter(frames))
    return "".join(summary.format()).rstrip()[-TRACE_MAX:]


def _count_sockets() -> int:
    """Open ones; an event loop that a module makes has some too. 0 where the system has no list."""
    count = 0
    with contextlib.suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):
                count += str(entry.readlink()).startswith("socket:")
    return count


def _count_threads() -> int:
    """All threads of this process, those that Python does not know of too."""
    try:
        return sum(1 for _ in _THREADS_FOLDER.iterdir())
    except OSError:
        return threading.active_count()
