"""A rebuild reports how the views that served differ from the rebuilt ones."""

import asyncio
import json

import pytest

from muster.__main__ import main
from projector.verify import view_comparison
from tests.integration.projector.rebuilding import replayed
from tests.integration.projector.stage import POOL, VIEWS, archived_story, open_stage


async def test_a_rebuild_reports_how_the_old_views_differed(
    redis_url: str, database_url: str
) -> None:
    """Equal ones are reported as equal; a changed, a missing and a surplus row are each named."""
    async with archived_story(redis_url, database_url) as (stage, _):
        ids = sorted(await stage.log.live(POOL))
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


async def test_rows_of_a_pool_that_no_log_has_are_reported_and_removed(
    redis_url: str, database_url: str
) -> None:
    async with archived_story(redis_url, database_url) as (stage, _):
        right = await stage.contents()
        await stage.sql("UPDATE {}workers SET pool_name = 'ghost'")
        found = (await replayed(stage))[-1].comparison
        assert found.differing == 2 * len(right["workers"])  # too many there, missing here
        assert await stage.contents() == right


async def test_a_rebuild_lists_the_first_differences_and_counts_all(
    redis_url: str, views_url: str
) -> None:
    """One table has more than are listed, and another one some more."""
    async with archived_story(redis_url, views_url) as (stage, _):
        await stage.sql("UPDATE {}workers SET reason = 'planted'")
        await stage.sql(
            "UPDATE {}agents SET reason = 'x', project_id = 'x', role_type = 'x', epoch = 99"
        )
        found = (await replayed(stage))[-1].comparison
        assert found.differing == 3 + 6
        assert len(found.differences) == view_comparison.LISTED_MAX
        tables_named = [one.subject.partition("/")[0] for one in found.differences]
        assert tables_named == ["workers"] * 3 + ["agents"] * 17


async def test_views_at_another_position_are_not_compared(redis_url: str, views_url: str) -> None:
    async with archived_story(redis_url, views_url) as (stage, _):
        await stage.sql("UPDATE {}checkpoints SET seq = seq - 1 WHERE pool <> ''")
        found = (await replayed(stage))[-1].comparison
        assert found.pools == ("",)
        assert found.left_out[POOL].startswith("the views that served were at seq ")


def test_the_command_prints_the_differences(
    redis_url: str, views_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare() -> None:
        async with open_stage(redis_url, views_url) as stage:
            async with stage.projecting():
                await (await stage.pool()).spawn()
                await stage.settle()
            await stage.sql("UPDATE {}agents SET reason = 'planted'")

    asyncio.run(prepare())
    flags = ["--redis-url", redis_url, "--database-url", views_url]
    assert main(["replay", *flags]) == 0
    printed = capsys.readouterr().err
    assert "1 of 6 rows differ at the same position: the views that served were wrong" in printed
    assert "reason should be '', is 'planted'" in printed
    assert main(["replay", *flags, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["compared"]["differing"] == 0
