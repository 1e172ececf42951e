"""Where the archive was pruned, the past before that is gone: for answers and for streams."""

from pathlib import Path

import pytest

from projector.archive import limits
from tests.integration.gateway.event_client import following
from tests.integration.gateway.stage import AGENTS, GatewayStage
from tests.integration.gateway.trimming import trimmed, trimming
from tests.integration.projector.exporting import exported, pruned
from tests.integration.projector.stage import POOL


@pytest.fixture
def stage(unprojected: GatewayStage) -> GatewayStage:
    return unprojected


async def test_what_was_before_is_gone_and_no_client_is_sent_a_gap(
    stage: GatewayStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client goes on after it, and one that starts again gets what there is."""
    monkeypatch.setattr(limits, "KEPT", 3)
    await stage.pending()
    async with following(stage, f"?pool={POOL}&after=0") as client:
        await client.read(1)
        early = client.last
    async with trimming(stage.stage):
        for _ in range(9):
            await stage.pending()
        last = await trimmed(stage.stage)
        async with following(stage, f"?pool={POOL}&after=0") as client:
            at_seven = (await client.read(7))[-1]
            late = client.last
        now = (await stage.stage.views.positions())[POOL].ts + 1
        await exported(stage.stage.database, tmp_path / "export")
        [done] = await pruned(stage.stage.database, tmp_path / "export", now)
        assert done.seq == last - 3 == at_seven["seq"]

        for query in (f"as_of={POOL}:{done.seq - 1}", f"as_of={at_seven['ts'] - 1}"):
            answer = await stage.get(f"{AGENTS}?{query}")
            assert (answer.status, answer.kind, answer.fields) == (410, "archive-pruned", ["as_of"])
            assert (
                f"pool '{POOL}': the archive was pruned up to seq {done.seq} "
                in answer.json["detail"]
            )
        answer = await stage.get(f"{AGENTS}?as_of={POOL}:{last - 1}")
        assert len(answer.json["agents"]) == last - 1

        for path, headers, field in (
            (f"?pool={POOL}&after={early}", {}, "after"),
            (f"?pool={POOL}", {"Last-Event-ID": early}, "Last-Event-ID"),
        ):
            answer = await stage.get(f"/api/v1/events{path}", headers=headers)
            assert (answer.status, answer.kind, answer.fields) == (410, "archive-pruned", [field])
        async with following(stage, f"?pool={POOL}", last=late) as client:
            assert [one["seq"] for one in await client.read(3)] == [last - 2, last - 1, last]
        async with following(stage, f"?pool={POOL}&after=0") as client:
            assert [one["seq"] for one in await client.read(3)] == [last - 2, last - 1, last]
