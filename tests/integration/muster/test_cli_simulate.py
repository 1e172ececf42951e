"""`muster simulate --pool` and `muster shadow` on an archive, on both databases."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eventstore.language.events import PoolChanged, PoolShadowDecided
from eventstore.language.scaling_state import Memory, Observation
from muster.__main__ import main
from projector.store.rows import EventRow
from tests.histories import BEGUN_MS, CATALOGUE, History, raw
from tests.integration.projector.archive_stage import open_archive


@pytest.fixture
def archived(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Sequence[EventRow]:
    """A history of two pools."""
    monkeypatch.setenv("MUSTER_DATABASE_URL", database_url)
    monkeypatch.setattr("projector.history.selected.PAGE", 50)
    history = History(3)
    history.write(200)
    shadow = {"shadow": {"calm": {"buffer": 5}, "late": {}}}
    for policy, current, desired in (("calm", 2, 3), ("late", 2, 2), ("calm", 3, 4)):
        history.record("beta", decided(policy, current, desired), "beta")
        history.ts += 1000
    rows = history.write(400)
    history.record("beta", decided("late", 2, 1), "beta")
    history.record(CATALOGUE, PoolChanged(config=raw(shadow)), "beta")

    async def archive() -> None:
        async with open_archive(database_url) as stage:
            await stage.archive(rows)

    asyncio.run(archive())
    return rows


def decided(policy: str, current: int, desired: int) -> PoolShadowDecided:
    return PoolShadowDecided(
        policy=policy, reason="load", current=current, desired=desired, wanted=desired, limit="",
        term=1, candidates={}, observed=Observation(ts=1), memory=Memory(),
    )  # fmt: skip


def simulate(folder: Path, *words: str) -> int:
    (folder / "p.toml").write_text('preset = "proactive"')
    return main(["simulate", "--policy", f"{folder}/p.toml", *words])


def test_a_policy_is_tried_on_what_a_pool_has_gone_through(
    tmp_path: Path, archived: Sequence[EventRow], capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(tmp_path, "--pool", "beta", "--json") == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    of_pool = [row for row in archived if row.pool == "beta"]
    real, (tried,) = document["recorded"], document["policies"]
    assert real["arrivals"] == sum(row.type == "agent.requested" for row in of_pool)
    assert real["starts"] == sum(row.type == "worker.requested" for row in of_pool)
    assert real["stops"] == sum(row.type in {"worker.lost", "worker.stopped"} for row in of_pool)
    assert 0 < real["worker_hours"] < real["starts"]
    assert tried.keys() == real.keys()
    assert tried["arrivals"] == real["arrivals"]
    middle_ms = of_pool[len(of_pool) // 2].ts
    assert simulate(tmp_path, "--pool", "beta", "--from", str(middle_ms)) == 0
    header, policy, recorded, *_ = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in (header, policy, recorded)] == ["POLICY", "p", "recorded"]


def test_shadow_policies_are_compared_with_what_was_done_since_all_of_them_are_tried(
    archived: Sequence[EventRow], capsys: pytest.CaptureFixture[str]
) -> None:
    first_ms = [row.ts for row in archived if row.type == "pool.shadow_decided"][1]
    last_ms = archived[-1].ts + 100_000
    assert main(["shadow", "beta", "--to", str(last_ms), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    calm, late = document["policies"]
    assert (calm["name"], calm["starts"], calm["stops"]) == ("calm", 1, 0)
    assert (late["name"], late["starts"], late["stops"]) == ("late", 0, 1)
    hours = ((last_ms - first_ms) * 4 - 1000) / 3_600_000
    assert calm["worker_hours"] == pytest.approx(hours, rel=0.001)
    requested = [row.ts for row in archived if (row.pool, row.type) == ("beta", "agent.requested")]
    assert document["recorded"]["arrivals"] == sum(ts >= first_ms for ts in requested)
    assert main(["shadow", "alpha"]) == 1
    assert "pool alpha has no shadow policy" in capsys.readouterr().err


REFUSED = [
    ("--pool betta", 1, "did you mean `beta`?"),
    (f"--pool beta --to {BEGUN_MS - 1}", 1, "no pool `beta` before --to"),
    (f"--pool beta --from {BEGUN_MS + 10**7}", 1, "nothing is archived of it after --from"),
    ("--pool beta --from 14:0", 2, "--from: '14:0' is not a time"),
    ("--pool beta --from 2001-01-02 --to 2001-01-01", 2, "--from: must be before --to"),
    ("--pool beta --agent-seconds 3", 2, "agents live as long as they did"),
    ("--counts x.csv --from 1h", 2, "--from: only with --pool"),
]
"""The words of a command, its exit code, and what it says."""


@pytest.mark.usefixtures("archived")
def test_a_history_that_does_not_exist_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], subtests: pytest.Subtests
) -> None:
    for words, code, why in REFUSED:
        with subtests.test(words):
            assert simulate(tmp_path, *words.split()) == code
            assert why in capsys.readouterr().err
