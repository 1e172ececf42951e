"""A transient refusal of Redis counts as Redis being unreachable, at every call."""

from collections.abc import Awaitable, Callable
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from eventstore.errors import LogError, LogUnreachable
from eventstore.keys import Keys
from eventstore.log import parked
from eventstore.log.log import Log
from eventstore.log.pool_log import PoolLog
from eventstore.recovery import loss_reports
from eventstore.recovery.restore import LogRestore
from eventstore.redis_errors import error_of
from eventstore.steps.step import Origin
from muster.process.log_preparation import apply_pools
from muster.settings.settings import PoolDeclaration
from workers.supervisor import reaper

REPORT = loss_reports.LossReport(reporter="gateway:g", kind="spawn")
DECLARED = {"p": PoolDeclaration("coder", {})}
ASKED: dict[str, Callable[[Log], Awaitable[object]]] = {
    "what was declared": lambda log: apply_pools(log, AsyncMock(), DECLARED),
    "the keys of a log to wipe": lambda log: LogRestore(log, "p", "a").wipe(),
    "to write reports": lambda log: loss_reports.write_reports(log, "p", [REPORT]),
    "for reports": lambda log: loss_reports.read_reports(log, "p"),
    "to forget reports": lambda log: loss_reports.delete_reports(log, "p"),
    "what is parked": lambda log: parked.read(log, "p"),
    "what is pending": lambda log: reaper.pending_for(PoolLog(log, "p", Origin()), "w"),
    "who has something pending": lambda log: reaper.consumers(PoolLog(log, "p", Origin())),
}


class Refusing:
    """A client of a Redis that refuses everything, in these words."""

    def __init__(self, words: str) -> None:
        self._words = words

    async def execute_command(self, *_: object) -> Any:
        raise error_of(self._words)


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
async def test_a_transient_refusal_is_not_final(
    asked: Callable[[Log], Awaitable[object]],
) -> None:
    """The second kind ends the caller, or makes it give up."""
    for words, unreachable in (("BUSY Redis is busy running a script", True), ("NO such", False)):
        log = Log(cast("Any", Refusing(words)), Keys())
        with pytest.raises(LogError, match=words) as raised:
            await asked(log)
        assert isinstance(raised.value, LogUnreachable) == unreachable
