"""`--reload`: workers are replaced by others with the new code; broken code replaces none."""

from pathlib import Path

import pytest

from tests.integration.workers.hosts import Site
from tests.pools import data, raw_events
from tests.waiting import until
from workers.supervisor import code_watch

CODE = """
import pathlib
from workers.api.agent import Agent

class Changing(Agent):
    async def start(self, context):
        with pathlib.Path("{seen}").open("a") as seen:
            print("{version}", context.incarnation, file=seen)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Saves a version of the agent's code."""
    monkeypatch.setattr(code_watch, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(code_watch, "SETTLED_SECONDS", 0.05)

    def save(version: str) -> None:
        code = CODE.format(seen=tmp_path / "seen", version=version)
        (tmp_path / "changing.py").write_text(code if version else "import nothing_like_this")

    return save


def seen(folder: Path) -> list[str]:
    """Version and incarnation of every start."""
    path = folder / "seen"
    return path.read_text().splitlines() if path.exists() else []


async def test_workers_are_replaced_when_the_code_has_changed(site: Site, tmp_path: Path, write):
    write("one")
    pool = await site.pool(agents_per_worker=2)
    supervisor = await site.host(agent="changing:Changing", reload=True)
    await site.run(pool, 3)
    before, zygotes = await site.workers(), supervisor._processes._launcher.pids
    write("two")
    await until(lambda: len(seen(tmp_path)) == 6, timeout=15)
    await site.until_running(3)
    assert sorted(seen(tmp_path)) == [*["one 1"] * 3, *["two 2"] * 3]
    assert (await site.workers()).keys().isdisjoint(before)
    reasons = {data(e)["reason"] for e in raw_events(site.url) if e["type"] == "worker.draining"}
    assert reasons == {"code-changed"}
    await until(lambda: zygotes.isdisjoint(supervisor._processes.pids))
    site.check()


@pytest.mark.parametrize("deferred", [(), ("developer",)], ids=["preloaded", "deferred"])
async def test_code_that_cannot_be_imported_replaces_nothing(
    site: Site, tmp_path: Path, write, capsys: pytest.CaptureFixture[str], deferred
):
    write("one")
    pool = await site.pool()
    await site.host(agent="changing:Changing", reload=True, deferred_roles=deferred)
    await site.run(pool)
    said = ""

    def refused() -> bool:
        nonlocal said
        said += capsys.readouterr().out
        return "code.not_reloaded" in said

    write("")
    await until(refused, timeout=15)
    assert "ModuleNotFoundError" in said
    assert await site.incarnations() == {1: 1}
    write("two")
    await until(lambda: seen(tmp_path) == ["one 1", "two 2"], timeout=15)
    site.check()
