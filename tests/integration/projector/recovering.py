"""Lost and damaged logs for tests: made, recovered, and compared with everything else."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from eventstore.errors import Halted, LogMissing, Recovered
from eventstore.keys import Keys
from eventstore.language.events import ENTRY_FIELDS
from eventstore.log.log import Log
from eventstore.log.replies import Outcome
from eventstore.log.submission import SubmitResult
from eventstore.recovery.restore import LogRestore
from projector.queries.views import Position
from projector.recovery.recovery import (
    RecoveryOptions,
    recover,
)
from projector.recovery.rewrite import RecoveredLog
from projector.verify.verification import verify
from tests.integration.projector.stage import POOL, Stage
from tests.pools import TestPool
from tests.waiting import until


def options(stage: Stage) -> RecoveryOptions:
    return RecoveryOptions(
        redis_url=stage.redis_url, database_url=stage.database_url, lease_seconds=1.0
    )


async def recovered(stage: Stage) -> dict[str, RecoveredLog]:
    """Recover what is damaged; returns what was done, by pool."""
    done = await recover(options(stage), lambda _: None)
    return {one.pool: one for one in done}


async def require_equal(stage: Stage) -> None:
    """Views, archive, Redis' hashes and sets agree with the log."""
    await stage.catch_up()
    found = await verify(stage.redis_url, "", stage.database_url)
    assert found.differences == []


def wipe(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


@contextmanager
def rolled_back(url: str) -> Iterator[None]:
    """Afterwards Redis has again what it had before, as with an older append-only file."""
    with redis.Redis.from_url(url) as client:
        dumps = {key: client.dump(key) for key in client.keys("*")}
        yield
        with client.pipeline() as pipeline:
            pipeline.flushall()
            for key, dump in dumps.items():
                pipeline.restore(key, 0, dump)
            pipeline.execute()


async def unaware_spawn(stage: Stage) -> SubmitResult:
    """By a process that knows of no earlier log."""
    return await TestPool(Log(stage.log.client, Keys()), POOL).spawn()


async def accepted(pool: TestPool) -> bool:
    try:
        return (await pool.spawn()).outcome is Outcome.DONE
    except (LogMissing, Halted, Recovered):
        return False


async def die_at(step: str, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a recovery whose process is killed before a step."""

    class Killed(BaseException):
        pass

    async def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LogRestore, step, die)
        with pytest.raises(Killed):
            await recovered(stage)


def write_entry(
    url: str,
    seq: int,
    *,
    kind: str = "agent.started",
    version: int = 1,
    data: str = "{}",
    subject: str = "a",
    pool: str = POOL,
) -> None:
    """An entry that no script of ours writes."""
    events, meta = f"pool:{{{pool}}}:events", f"pool:{{{pool}}}:meta"
    values = {"type": kind, "version": version, "seq": seq, "event_id": f"e{seq}"}
    values |= {"subject": subject, "data": data, "ts": 1}
    fields = {name: values.get(name, "") for name in ENTRY_FIELDS}
    with redis.Redis.from_url(url) as client:
        client.xadd(events, fields)
        client.hset(meta, "seq", max(seq, int(client.hget(meta, "seq"))))


async def stopped_at(stage: Stage, pool: str = POOL) -> Position:
    async def position() -> Position | None:
        position = (await stage.views.positions()).get(pool)
        return position if position and position.status != "ok" else None

    found = await until(position, what=f"{pool} is stopped")
    assert found is not None
    return found
