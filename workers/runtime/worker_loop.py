"""The event loop of a worker: uvloop, which starts processes and handles signals by itself."""

from collections.abc import Callable
from typing import Any

import uvloop

from workers.output.lines import CURRENT
from workers.runtime.child_records import marked, record
from workers.runtime.process_state import OWN_SIGNALS, ProcessState


class Loop(uvloop.Loop):
    """Records the processes that agents start, and keeps the worker's signal handlers."""

    async def subprocess_exec(  # type: ignore[override]  # all of its arguments, passed on
        self, factory: Any, *command: Any, **options: Any
    ) -> Any:
        return record(await super().subprocess_exec(factory, *command, **marked(options)))

    async def subprocess_shell(  # type: ignore[override]
        self, factory: Any, command: Any, **options: Any
    ) -> Any:
        return record(await super().subprocess_shell(factory, command, **marked(options)))

    def add_signal_handler(self, sig: int, callback: Callable[..., Any], *args: Any) -> None:  # type: ignore[override]
        if not _refused(sig):
            super().add_signal_handler(sig, callback, *args)

    def remove_signal_handler(self, sig: int) -> bool:
        return not _refused(sig) and super().remove_signal_handler(sig)


def _refused(number: int) -> bool:
    owner, state = CURRENT.get(), ProcessState.current
    if owner is None or state is None or number not in OWN_SIGNALS:
        return False
    state.refuse(owner)
    return True
