"""Shadow views: compared, caught up, built by another version, broken off."""

import asyncio
import json
import signal
from typing import Any

import pytest
import redis
from sqlalchemy import Connection, text
from structlog.testing import capture_logs

from eventstore.language.agent_commands import Terminate
from muster.__main__ import main
from projector.queries.views import AgentFilter, AsOf
from projector.rebuild import rebuild, startup
from projector.rebuild.rebuild import Progress, Rebuild, RebuildOptions, replay
from projector.recovery.recovery import Recovery
from projector.service import projector as service
from projector.service.projector import Phase
from projector.store import tables
from projector.store.database import Database
from projector.store.lease import Lease, LeaseState
from projector.verify import view_comparison
from projector.verify.verification import verify
from tests.integration.projector.processes import projector_process, struck
from tests.integration.projector.recovering import recovered, wipe
from tests.integration.projector.stage import POOL, VIEWS, Stage, open_stage
from tests.integration.projector.test_rebuild import replayed
from tests.integration.projector.test_rebuild import tables as tables_of
from tests.pools import TestPool
from tests.waiting import until

OURS = tables.VIEW_VERSION
NEWER = OURS + 1


def options(stage: Stage) -> RebuildOptions:
    return RebuildOptions(
        redis_url=stage.redis_url, database_url=stage.database_url, lease_seconds=2.0
    )


async def other_tables(stage: Stage) -> set[str]:
    """The tables other than the serving ones."""
    return {name for name in await tables_of(stage) if name.startswith(("fresh_", "previous_"))}


async def archived(stage: Stage) -> list[Any]:
    return await stage.sql("SELECT * FROM {}events ORDER BY pool, generation, seq")


# ---- compared --------------------------------------------------------------------------------


async def test_a_rebuild_says_what_the_old_views_had_wrong(
    redis_url: str, database_url: str
) -> None:
    """Equal ones are reported as equal; a changed, a missing and a surplus row are each named."""
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            ids = sorted(await stage.play(await stage.pool()))
            await stage.settle()
        found = (await replayed(stage))[-1].comparison
        assert (found.differing, found.left_out, set(found.pools)) == (0, {}, {"", POOL})
        right = await stage.contents()
        assert found.rows == sum(len(right[name]) for name in VIEWS[1:])
        await stage.sql("UPDATE {}agents SET reason = 'planted' WHERE agent_id = :a", a=ids[0])
        await stage.sql("DELETE FROM {}agents WHERE agent_id = :a", a=ids[1])
        await stage.sql("UPDATE {}workers SET worker_id = 'ghost' WHERE worker_id LIKE '%1'")
        await stage.sql("UPDATE {}pools SET deleted = NOT deleted")
        found = (await replayed(stage))[-1].comparison
        assert found.differing == 5  # the renamed worker is both missing and too many
        named = {(d.pool, d.subject.partition("/")[0], d.field) for d in found.differences}
        assert named == {
            (POOL, "agents", "reason"),
            (POOL, "agents", "presence"),
            (POOL, "workers", "presence"),
            ("", "pools", "deleted"),
        }
        changed = [d for d in found.differences if d.field == "reason"]
        assert [(d.subject, d.found) for d in changed] == [(f"agents/{ids[0]}", "planted")]
        assert await stage.contents() == right


async def test_a_rebuild_lists_the_first_differences_and_counts_all(
    redis_url: str, database_url: str
) -> None:
    """Of one table more than are listed, and of another some more."""
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        await stage.sql("UPDATE {}workers SET reason = 'planted'")
        await stage.sql(
            "UPDATE {}agents SET reason = 'x', project_id = 'x', role_type = 'x', epoch = 99"
        )
        found = (await replayed(stage))[-1].comparison
        assert found.differing == 3 + 6
        assert len(found.differences) == view_comparison.LISTED_MAX
        tables_named = [one.subject.partition("/")[0] for one in found.differences]
        assert tables_named == ["workers"] * 3 + ["agents"] * 17


async def test_views_at_another_position_are_not_compared(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        await stage.sql("UPDATE {}checkpoints SET seq = seq - 1 WHERE pool <> ''")
        found = (await replayed(stage))[-1].comparison
        assert found.pools == ("",)
        assert found.left_out[POOL].startswith("the views that served were at seq ")


def test_the_command_prints_the_differences(
    redis_url: str, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare() -> None:
        async with open_stage(redis_url, database_url) as stage:
            async with stage.projecting():
                await (await stage.pool()).spawn()
                await stage.settle()
            await stage.sql("UPDATE {}agents SET reason = 'planted'")

    asyncio.run(prepare())
    flags = ["--redis-url", redis_url, "--database-url", database_url]
    assert main(["replay", *flags]) == 0
    said = capsys.readouterr().err
    assert "1 of 2 rows differ at the same position: the views that served were wrong" in said
    assert "reason should be '', is 'planted'" in said
    assert main(["replay", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compared"]["differing"] == 0


# ---- behind the archive ----------------------------------------------------------------------


async def put_back(stage: Stage, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Let the views be these, whatever the archive has by now."""
    for table in tables.SERVING.all():
        names = [column.name for column in table.columns]
        into = f"{table.name} ({', '.join(names)}) VALUES ({', '.join(f':{n}' for n in names)})"
        await stage.sql(f"DELETE FROM {{}}{table.name}")
        for row in rows[table.name]:
            await stage.sql(f"INSERT INTO {{}}{into}", **{name: row[name] for name in names})


async def test_views_behind_the_archive_are_folded_on_to_its_end(
    redis_url: str, database_url: str
) -> None:
    """No mark is needed for that. Nothing is archived twice; the stream has lost it by now."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting():
            await stage.play(pool)
            await stage.settle()
        served = await stage.contents()
        async with stage.projecting():
            await (await stage.pool("later")).spawn()
            await stage.play(pool, "v")
            await stage.settle()
        newest, events = await stage.contents(), await archived(stage)
        with redis.Redis.from_url(redis_url) as client:
            client.xtrim(f"pool:{{{POOL}}}:events", maxlen=1, approximate=False)
        await put_back(stage, served)
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                assert await stage.contents() == newest
                assert await archived(stage) == events
                await pool.spawn()
                await stage.settle()
        said = [line["event"] for line in logs]
        assert "projector.caught_up" in said
        assert "projector.rebuilding" not in said
        assert (await verify(redis_url, "", database_url)).equal


async def test_views_that_the_archive_contradicts_are_rebuilt(
    redis_url: str, database_url: str
) -> None:
    """Rows of agents that its first events ask for again: no checkpoint of ours says that."""
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        before = await stage.contents()
        await stage.sql("DELETE FROM {}checkpoints WHERE pool <> ''")
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle()
                assert await stage.contents() == before
        said = [line["event"] for line in logs]
        assert "projector.rebuilding" in said
        assert "projector.caught_up" not in said


async def test_over_a_recovery_of_the_log_the_past_stays_and_views_continue(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state before the loss is answered as it was; views of before it are folded on past it."""
    monkeypatch.setattr(Recovery, "_wait_for_leases", lambda _: asyncio.sleep(0))
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting():
            await stage.play(pool)
            await stage.settle()
        before, served = await stage.views.agents(AgentFilter()), await stage.contents()
        last = await stage.head(POOL)
        wipe(redis_url)
        assert {one.generation for one in (await recovered(stage)).values()} == {2}
    async with open_stage(redis_url, database_url) as stage:
        stage.log.raise_high_water_mark(POOL, 2, 0)
        async with stage.projecting():
            await TestPool(stage.log, POOL).spawn()
            await stage.settle(POOL)
        after, newest = await stage.views.agents(AgentFilter()), await stage.contents()
        assert len(after) == len(before) + 1
        history = stage.views.history
        for seq, answer in ((last, before), (await stage.head(POOL), after)):
            point = await history.point_in_time(AsOf(events={POOL: (None, seq)}))
            assert await history.agents(point, AgentFilter()) == answer
        await put_back(stage, served)
        with capture_logs() as logs:
            async with stage.projecting():
                await stage.settle(POOL)
                assert await stage.contents() == newest
        assert "projector.caught_up" in [line["event"] for line in logs]
        await stage.sql("UPDATE {}checkpoints SET generation = 1, seq = 999 WHERE pool <> ''")
        with capture_logs() as logs:  # what they have of the lost generation is void: no way on
            async with stage.projecting():
                await stage.settle(POOL)
                assert await stage.contents() == newest
        assert "projector.rebuilding" in [line["event"] for line in logs]


# ---- of another version ----------------------------------------------------------------------


def become(patch: pytest.MonkeyPatch, version: int) -> None:
    """Let this process be a Muster that builds views of that version."""
    for module in (view_comparison, startup, service, tables):
        patch.setattr(module, "VIEW_VERSION", version, raising=False)


async def versions(stage: Stage) -> dict[str, int]:
    rows = await stage.sql("SELECT name, version FROM {}view_versions")
    return {row["name"]: row["version"] for row in rows}


async def test_an_older_version_rebuilds_its_own_views(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is the way back: its projector goes on from them."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting():
            await stage.play(pool)
            await stage.settle()
        old = await stage.contents()
        with monkeypatch.context() as newer:
            become(newer, NEWER)
            await replayed(stage)
            await stage.sql("ALTER TABLE {}agents ADD COLUMN newer TEXT")
        assert await versions(stage) == {"views": NEWER}
        await replayed(stage)
        assert await stage.contents() == old
        assert await versions(stage) == {"views": OURS}
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()


async def test_previous_views_of_an_older_data_folder_go_with_the_next_rebuild(
    redis_url: str, database_url: str
) -> None:
    """Earlier versions stored them for a rollback; until then they disturb nothing."""
    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        async with stage.projecting():
            await stage.play(pool)
            await stage.settle()
        for name in VIEWS:
            await stage.sql(f"CREATE TABLE {{}}previous_{name} AS SELECT * FROM {{}}{name}")
        for name in ("previous", "rolled_back"):
            await stage.sql("INSERT INTO {}view_versions VALUES (:name, :of)", name=name, of=OURS)
        async with stage.projecting():
            await pool.spawn()
            await stage.settle()
        before = await stage.contents()
        assert await other_tables(stage) == {f"previous_{name}" for name in VIEWS}
        assert (await verify(redis_url, "", database_url)).equal
        await replayed(stage)
        assert await other_tables(stage) == set()
        assert await versions(stage) == {"views": OURS}
        assert await stage.contents() == before


async def test_an_upgrade_builds_new_views_while_the_old_projector_serves_the_old_ones(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is a process of its own, of this version; it becomes a standby."""
    built, may_finish = asyncio.Event(), asyncio.Event()
    fold_archive = Rebuild.fold_archive

    async def fold_and_wait(self: Rebuild) -> None:
        await fold_archive(self)
        built.set()
        await may_finish.wait()
        await fold_archive(self)

    async with open_stage(redis_url, database_url) as stage:
        pool = await stage.pool()
        with projector_process(stage) as old:
            await stage.play(pool)
            await stage.settle()
            become(monkeypatch, NEWER)
            monkeypatch.setattr(Rebuild, "fold_archive", fold_and_wait)
            new = stage.projector(lease_seconds=2.0)
            await new.start()
            try:
                await asyncio.wait_for(built.wait(), 10)
                for _ in range(3):  # the old views are still up to date meanwhile
                    submitted = await pool.spawn()
                    await stage.act(pool, submitted.agent_id, Terminate())
                    await stage.settle()
                assert new.phase == "standby"
                assert await versions(stage) == {"views": OURS}
                may_finish.set()
                await until(lambda: new.phase is Phase.ACTIVE)
                assert await versions(stage) == {"views": NEWER}
                await pool.spawn()
                await stage.settle()
                assert old.running
            finally:
                await new.stop()
        assert (await verify(redis_url, "", database_url)).equal
        assert await other_tables(stage) == set()


async def test_a_query_that_began_before_an_upgrade_reads_the_old_views_only(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot is older than the switch, the first read of the tables is younger."""
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        await stage.sql("ALTER TABLE {}agents ADD COLUMN surplus TEXT")
        loop = asyncio.get_running_loop()
        counted: list[int] = []

        def read(connection: Connection) -> None:
            connection.execute(text("SELECT count(*) FROM " + prefix + "view_versions")).all()
            become(monkeypatch, NEWER)
            asyncio.run_coroutine_threadsafe(replayed(stage), loop).result(20)
            for name in ("agents", "workers", "pools", "pool_capacity", "checkpoints"):
                chosen = text(f"SELECT count(*) FROM {prefix}{name}")
                counted.append(connection.execute(chosen).scalar_one())

        database = Database(database_url)
        database.open()
        prefix, before = database.prefix, await stage.contents()
        try:
            await database.read(read)
        finally:
            await database.close()
        rows = {name: len(before[name]) for name in VIEWS}
        assert counted == [rows["agents"], rows["workers"], rows["pools"], 1, rows["checkpoints"]]
        assert await versions(stage) == {"views": NEWER}
        assert "surplus" not in (await stage.contents())["agents"][0]


# ---- broken off ------------------------------------------------------------------------------

STAGES = ("_apply", "finish", "_compare", "switch", "drop_and_release")
PROCESSES = {"sqlite": STAGES, "postgresql": ("_compare", "switch")}
"""At which stages the test has time to kill one."""


async def test_a_rebuild_killed_at_any_stage_leaves_good_views_and_nothing_else(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projector often drops abandoned tables, but none of a rebuild that is only slow."""
    original = Lease._try_acquire

    async def patient(self: Lease, seen: LeaseState, stood_still: float) -> bool:
        ours = seen.holder.startswith(f"{self._process}/")  # a rebuild that was broken off
        return await original(self, seen, stood_still if ours else 0.0)

    monkeypatch.setattr(Lease, "_try_acquire", patient)
    async with (
        open_stage(redis_url, database_url) as stage,
        stage.projecting(lease_seconds=0.4) as projector,
    ):
        pool = await stage.pool()
        await stage.play(pool)
        await stage.settle()
        for where in PROCESSES[database_url.partition(":")[0].partition("+")[0]]:
            before = await stage.contents()
            with struck(stage, where, signal.SIGKILL) as killed:
                assert await asyncio.to_thread(killed.wait, 20) == -signal.SIGKILL, where
            assert await stage.contents() == before, where
            await until(lambda: projector.phase is Phase.ACTIVE)
            await pool.spawn()
            await stage.settle()
            await until(lambda: cleaned(stage), what=f"the cleaning after {where}")
            assert await other_tables(stage) == set(), where
        assert (await verify(redis_url, "", database_url)).equal


async def cleaned(stage: Stage) -> bool:
    return not {name for name in await other_tables(stage) if name.startswith("fresh_")}


async def test_a_rebuild_ended_by_a_person_cleans_up_at_once(
    redis_url: str, database_url: str
) -> None:
    async with open_stage(redis_url, database_url) as stage:
        async with stage.projecting():
            await stage.play(await stage.pool())
            await stage.settle()
        before = await stage.contents()
        with struck(stage, "finish", signal.SIGINT) as ended:
            assert await asyncio.to_thread(ended.wait, 20) == 130
        assert await other_tables(stage) == set()
        assert await stage.contents() == before
        leases = await stage.sql("SELECT name, holder FROM {}leases")
        assert {row["name"]: row["holder"] for row in leases} == {"projector": "", "rebuild": ""}


async def test_a_rebuild_that_was_stopped_too_long_is_fenced(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one ran meanwhile: what the first would do then is refused, and says so."""
    compare = Rebuild._compare

    async def stand_still(self: Rebuild) -> None:
        monkeypatch.setattr(Rebuild, "_compare", compare)
        await stage.sql("UPDATE {}leases SET term = term + 1 WHERE name = 'rebuild'")

    async with open_stage(redis_url, database_url) as stage:
        await (await stage.pool()).spawn()
        monkeypatch.setattr(Rebuild, "_compare", stand_still)
        reported: list[Progress] = []
        with pytest.raises(rebuild.RebuildFenced):
            await replay(options(stage), reported.append)
        assert (await stage.contents())["agents"] == []
