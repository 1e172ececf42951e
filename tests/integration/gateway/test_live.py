"""The live feed: what one client has put together is what another one is sent as a whole."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from gateway.health import live
from tests.integration.gateway.stage import AGENTS, TOKEN, GatewayStage, gateway_stage
from tests.integration.gateway.token_callers import ADMIN, OTHER_POOL, TOKENS, new_token, populate
from tests.integration.projector.stage import POOL
from tests.unit.gateway.test_live_feed import applied, filled
from tests.waiting import until

LIVE = f"{AGENTS}/monitor/live"


@pytest.fixture
async def stage(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatewayStage]:
    monkeypatch.setattr(live, "INTERVAL_SECONDS", 0.02)
    database = f"sqlite:///{tmp_path / 'views.db'}"
    async with gateway_stage(redis_url, database, api_token=TOKEN) as opened:
        yield opened


class Page:
    """An open dashboard."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.sections: dict[str, Any] = {}
        self.proof: dict[str, Any] = {}
        self.kinds: list[str] = []

    async def read(self) -> bool:
        """Apply the next message; False at the end of the stream."""
        async with asyncio.timeout(10):
            line = b""
            while not line.startswith(b"data: "):
                line = await self._response.content.readline()
                if not line:
                    return False
                if line.startswith(b"event: "):
                    self.kinds.append(line[7:].strip().decode())
        content = json.loads(line[6:])
        old = self.sections if self.kinds[-1] == "patch" else {}
        self.sections = applied(old, content.get("sections", {}))
        self.proof = content["proof"]
        return True

    async def until(self, condition: Any) -> None:
        while not condition(self):
            assert await self.read(), "the stream ended"

    def column(self, section: str, name: str) -> dict[str, Any]:
        at = self.sections["names"][section].index(name)
        return {key: row[at] for key, row in self.sections.get(section, {}).items()}


@asynccontextmanager
async def opened(stage: GatewayStage, headers: dict[str, str]) -> AsyncIterator[Page]:
    async with stage.session.get(LIVE, headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        page = Page(response)
        await page.read()
        assert page.kinds == ["picture"]
        yield page


async def test_changes_add_up_to_the_picture_that_others_are_sent(stage: GatewayStage) -> None:
    async with opened(stage, ADMIN) as page:
        assert page.sections["pools"][POOL]["agent_count"] == 0
        stage.session.headers.update(ADMIN)
        agent_id = await stage.pending()
        await page.until(lambda p: p.sections["pools"][POOL].get("waiting"))
        assert page.sections["pools"][POOL]["waiting"]["reason"]
        fence = await stage.worker()
        await stage.run(fence)
        await page.until(lambda p: p.column("agents", "status").get(agent_id) == "running")
        assert page.column("agents", "process_id") == {agent_id: "w1"}
        assert page.column("workers", "agent_count") == {"w1": 1}
        assert page.sections["pools"][POOL]["counts"] == {"running": 1}
        assert page.proof["redis_error"] == page.proof["views_error"] == ""
        assert sum(page.sections["hour"][POOL]["arrivals"]) <= 1
        failed = await stage.pending()
        await stage.fail(fence)
        await page.until(lambda p: p.sections.get("alerts"))
        assert failed not in page.sections["agents"]
        await stage.end(agent_id, fence)
        await page.until(lambda p: agent_id not in p.sections["agents"])
        assert set(page.kinds[1:]) == {"patch"}
        async with opened(stage, ADMIN) as later:
            await page.until(lambda p: filled(p.sections) == filled(later.sections))


async def test_a_token_sees_its_pools_until_it_is_revoked(stage: GatewayStage) -> None:
    own = await populate(stage, POOL, "apollo", "w-own")
    hidden = await populate(stage, OTHER_POOL, "apollo", "w-hidden")
    headers = await new_token(stage, "ann", "read", pools=[POOL])
    async with opened(stage, headers) as page:
        text = json.dumps(page.sections)
        assert [name for name in (own.agent, own.worker) if name not in text] == []
        assert [name for name in (hidden.agent, hidden.worker, hidden.pool) if name in text] == []
        revoked = await stage.ask("DELETE", f"{TOKENS}/ann", headers=ADMIN)
        assert revoked.status == 200
        while await page.read():
            pass
    projects = await new_token(stage, "bob", "read", projects=["apollo"])
    assert (await stage.get(LIVE, headers=projects)).kind == "forbidden"


async def test_nothing_is_read_while_no_dashboard_is_open(stage: GatewayStage) -> None:
    async with opened(stage, ADMIN):
        assert stage.backend.live.wanted.is_set()
    await until(lambda: not stage.backend.live.wanted.is_set())
