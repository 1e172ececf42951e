"""Roles as parts of one process: they start once Redis answers, and can be stopped before."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from eventstore.errors import LogUnreachable, OutcomeUnknown
from muster.process import roles
from muster.settings.loading import load
from muster.up.background import Background
from muster.up.role_processes import RoleParts
from tests.waiting import until


class Scripted:
    """A part whose starts a test scripts; the last one is repeated."""

    url = "http://127.0.0.1:9"

    def __init__(self, *starts: Callable[[], Awaitable[None]]) -> None:
        self.starts = list(starts)
        self.started = self.stopped = 0

    async def start(self) -> None:
        self.started += 1
        await (self.starts.pop(0) if self.starts[1:] else self.starts[0])()

    async def stop(self) -> None:
        self.stopped += 1


async def _unreachable() -> None:
    raise LogUnreachable("Redis does not answer")


async def _unknown() -> None:
    raise OutcomeUnknown("Redis did not answer")


async def _serves() -> None:
    pass


async def _hangs() -> None:
    await asyncio.Event().wait()


def role_parts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, part: Scripted, background: Background
) -> Any:
    monkeypatch.setattr("muster.up.role_processes.ROLES", ("supervisor",))
    monkeypatch.setattr(roles, "build", lambda *_: part)
    return RoleParts(load({"data_dir": folder}, {}), background, None)


async def test_a_part_that_cannot_start_without_redis_starts_once_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such as a supervisor, which must join."""
    part = Scripted(_unreachable, _unreachable, _unknown, _serves)
    parts = role_parts(tmp_path, monkeypatch, part, Background())
    assert await parts.start() == part.url
    assert parts._parts == [part]
    assert part.stopped == 3, "what it had started"
    printed = capsys.readouterr().out
    assert printed.count("waiting for it") == 2, "once for each reason"


async def test_a_part_that_cannot_be_stopped_leaves_no_other_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway, for instance: the supervisor would not release the agents."""

    class Defective(Scripted):
        async def stop(self) -> None:
            raise ZeroDivisionError

    part = Scripted(_serves)
    parts = role_parts(tmp_path, monkeypatch, part, Background())
    parts._parts = [part, Defective(_serves)]
    with pytest.raises(ZeroDivisionError):
        await parts.stop()
    assert part.stopped == 1


@pytest.mark.parametrize("start", [_unreachable, _hangs])
async def test_a_stop_is_noticed_while_a_part_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Awaitable[None]]
) -> None:
    part = Scripted(start)
    background = Background()
    parts = role_parts(tmp_path, monkeypatch, part, background)
    task = asyncio.ensure_future(parts.start())
    await until(lambda: part.started)
    background.stopping.set()
    async with asyncio.timeout(10):
        assert await task == ""
    assert part.stopped == part.started
