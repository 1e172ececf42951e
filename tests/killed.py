"""Runs `muster` and kills it, as `kill -9` would, right after a named step of a handover.

`die_after` is for a process of its own. The steps are patched from here, so the product knows
nothing of them.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from muster.__main__ import main
from muster.fallback import handover, inventory
from muster.fallback.directory import Folder
from muster.fallback.primary_log import PrimaryLog

STEPS: dict[str, tuple[Any, str]] = {
    "collected": (inventory, "_list"),
    "listed": (inventory, "collect"),
    "retired": (Folder, "retire"),
    "submitted": (PrimaryLog, "submit"),
    "reported": (handover, "write_json"),
    "failures": (handover, "write_failures"),
    "done": (Folder, "rename"),
}
"""In the order in which they come: each is the last call of its process."""


def kill_after(owner: Any, name: str) -> None:
    original: Callable[..., Any] = getattr(owner, name)

    async def later(*args: Any, **named: Any) -> None:
        await original(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    def now(*args: Any, **named: Any) -> None:
        original(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    is_async = original.__code__.co_flags & 0x80  # CO_COROUTINE
    setattr(owner, name, later if is_async else now)


def die_after(
    _report: Connection, step: str, arguments: Sequence[str], env: Mapping[str, str], output: Path
) -> None:
    """`muster ARGUMENTS`, up to a step; `output`: where it prints."""
    os.environ.clear()
    os.environ.update(env)
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    kill_after(*STEPS[step])
    sys.exit(main(arguments))
