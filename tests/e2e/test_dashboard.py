"""The dashboard in a browser: one system and one browser for all, in the order of a first day.

The parts are subtests of one test: each finds what the ones before it left, and a run on several
processors must not divide them.
"""

import asyncio
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from msgspec import Struct, field
from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.browser.chromium import DESKTOP, PHONE, chromium, inaccessible, too_wide, watch
from tests.e2e.system import POOL, System

TOKEN = "a-token-for-the-dashboard"
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
TIMEOUT_MS: Final = 15_000
"""For whatever is to be seen: charts follow within 6 s, on a machine with other work later."""
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
PAGES = ("#/", "#/workers", "#/agents", "#/agents?status=failed")
CONFIG = """\
poll_seconds = 0.2
min_heartbeat_interval = 0.1

[roles.developer]
agent = "acting:Actor"

[pools.developer_pool]
role = "developer"
restart_limit = 0
"""
ACTING = """\
import asyncio

from muster import Agent


class Actor(Agent):
    async def start(self, context):
        if model := context.input.get("model"):
            load(model)

    async def run(self, context):
        async with context.idle():
            await context.stopping.wait()


def load(model):
    raise ConnectionError(f"{model} cannot be reached: the connection was refused")
"""


expect.set_options(timeout=TIMEOUT_MS)


class Scene(Struct):
    """A system, and an open page of it."""

    system: System
    context: BrowserContext
    page: Page
    problems: list[str]
    pictures: bool
    agents: list[str] = field(default_factory=list)

    async def show(self, address: str) -> None:
        await self.page.goto(f"{self.system.url}/{address}")

    async def live(self) -> None:
        await expect(self.mark).to_have_text("live")

    @property
    def mark(self) -> Locator:
        return self.page.get_by_role("status").first

    async def spawn(self, count: int, **body: Any) -> list[str]:
        body = {"project_id": "apollo", "pool_name": POOL, **body}
        headers = {"Prefer": "respond-async"}
        path = "/api/v1/agents/spawn"
        answers = [
            await self.system.call("POST", path, body, headers=headers) for _ in range(count)
        ]
        return [str(answer["agent_id"]) for _, answer in answers]

    async def picture(self, name: str, page: Page | None = None) -> None:
        """Write what is seen to the docs, if the run was asked to."""
        if self.pictures:
            PICTURES.mkdir(exist_ok=True)
            await (page or self.page).screenshot(path=PICTURES / f"{name}.png")


@pytest.fixture
async def scene(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    (tmp_path / "acting.py").write_text(ACTING)
    with socket.socket() as free:  # the page expects the gateway at its address after a restart
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = {"MUSTER_API_TOKEN": TOKEN, "MUSTER_PORT": port, "MUSTER_HOST_ID": "workstation"}
    async with chromium() as browser, System(tmp_path, env=env, config=CONFIG) as system:
        assert system._session is not None
        system._session.headers["Authorization"] = f"Bearer {TOKEN}"
        context = await browser.new_context(viewport=DESKTOP, reduced_motion="reduce")
        context.set_default_timeout(TIMEOUT_MS)
        problems: list[str] = []
        context.on("page", lambda page: watch(page, problems))
        page = await context.new_page()
        yield Scene(system, context, page, problems, request.config.getoption("--pictures"))
        await context.close()


async def one_signs_in_and_is_shown_what_to_do_first(scene: Scene) -> None:
    await scene.show("")
    token = scene.page.get_by_label("Token", exact=True)
    await token.fill("wrong")
    await token.press("Enter")
    await expect(scene.page.get_by_role("alert")).to_contain_text("not valid")
    assert await inaccessible(scene.page) == []
    await token.fill(TOKEN)
    await token.press("Enter")
    await scene.live()
    await expect(scene.page.get_by_text(f"muster spawn {POOL} --project demo")).to_be_visible()
    await expect(scene.page.get_by_text("Nothing needs attention.")).to_be_visible()
    [cookie] = await scene.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    kept = (
        "JSON.stringify([{...localStorage}, {...sessionStorage}, location.href, document.cookie])"
    )
    assert TOKEN not in await scene.page.evaluate(kept)
    await scene.picture("first-start")


async def agents_appear_by_themselves_and_are_reached_by_keyboard(scene: Scene) -> None:
    scene.agents = await scene.spawn(15, labels={"team": "core"})
    await expect(scene.page.get_by_text("15 / 20 slots")).to_be_visible(timeout=20_000)
    await expect(scene.page.locator(".facts")).to_contain_text(re.compile("arrivals, 1 h *15"))
    await scene.picture("fifteen-agents")
    await scene.page.get_by_role("link", name="Workers", exact=True).press("Enter")
    await expect(scene.page.get_by_role("main")).to_be_focused()
    slots = scene.page.locator(".slots a")
    await expect(slots).to_have_count(15)
    assert await scene.page.locator('.slots a[tabindex="0"]').count() == 2
    await slots.first.focus()
    await scene.page.keyboard.press("ArrowRight")
    await expect(slots.nth(1)).to_be_focused()
    await expect(scene.page.get_by_role("tooltip")).to_contain_text("project")
    await scene.picture("workers")
    await scene.page.keyboard.press("Enter")
    await expect(scene.page.get_by_role("heading", name="Life")).to_be_visible()
    assert re.search(r"#/agent/[0-9a-f-]{36}$", scene.page.url)
    await expect(scene.page.get_by_text("Requested over HTTP")).to_be_visible()


async def an_alert_leads_to_the_stack_trace_and_to_a_restart(scene: Scene) -> None:
    await scene.spawn(2, input={"model": "model-7"}, project_id="gemini")
    await scene.show("#/")
    alert = scene.page.locator(".alert", has_text="2 agents of pool").first
    await expect(alert).to_be_visible(timeout=20_000)
    await scene.picture("failing-agents")
    await alert.locator(".cases a").first.click()
    await expect(scene.page.get_by_text("in load")).to_be_visible()
    await scene.picture("agent")
    await scene.page.get_by_role("button", name="Restart…").click()
    dialog = scene.page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Incarnation 2 starts at once")
    assert await inaccessible(scene.page) == []
    await dialog.get_by_label("Reason").fill("the model is back")
    await dialog.get_by_role("button", name="Restart", exact=True).click()
    await expect(dialog.get_by_role("status")).to_contain_text("incarnation 2")
    await dialog.get_by_role("button", name="Close").click()
    await expect(scene.page.get_by_text("the model is back")).to_be_visible()


async def the_address_holds_the_view(scene: Scene) -> None:
    await scene.show("#/agents")
    rows = scene.page.locator("tbody tr")
    await expect(rows).to_have_count(15)
    await scene.page.get_by_role("button", name="failed").click()
    await expect(rows).to_have_count(2)
    await expect(rows.first).to_contain_text("ConnectionError model-7 cannot be reached")
    await scene.page.get_by_label("Search").fill("MODEL-7")
    ages = await rows.first.inner_text()
    await expect(rows.first).not_to_have_text(ages, use_inner_text=True)  # it was drawn again
    await scene.page.get_by_label("Search").press("Enter")
    await scene.page.wait_for_url("**/*status=failed*")
    await scene.page.wait_for_url("**/*text=MODEL-7*")
    await scene.page.reload()
    await expect(rows).to_have_count(2)
    await expect(scene.page.get_by_label("Search")).to_have_value("MODEL-7")
    await scene.page.go_back()
    await expect(scene.page.get_by_label("Search")).to_have_value("")


async def every_page_is_accessible(scene: Scene) -> None:
    """In both themes and on a phone, too: none is wider than its window."""
    for theme in THEMES:
        await scene.page.emulate_media(color_scheme=theme)
        await _every_page(scene, theme)
    await scene.page.emulate_media(color_scheme="light")


async def _every_page(scene: Scene, theme: str) -> None:
    failed = (await scene.system.agents("status=failed"))[0]["agent_id"]
    for address in (*PAGES, f"#/agent/{failed}", "#/agent/none"):
        await scene.show(address)
        await scene.live()
        await expect(scene.page.get_by_role("heading", level=1)).to_be_visible()
        await expect(scene.page.locator("[aria-busy=true]")).to_have_count(0)
        assert await inaccessible(scene.page) == [], address
        await scene.page.set_viewport_size(PHONE)
        assert await too_wide(scene.page) <= 0, address
        if address == "#/" and theme == "dark":
            await scene.picture("phone")
        await scene.page.set_viewport_size(DESKTOP)
        if address == "#/" and theme == "dark":
            await scene.picture("dark")


async def all_tabs_share_one_connection_which_another_takes_over(scene: Scene) -> None:
    await scene.show("#/")
    await scene.live()
    other, asked = await scene.context.new_page(), list[str]()
    other.on("request", lambda request: asked.append(request.url))
    await other.goto(f"{scene.system.url}/#/workers")
    await expect(other.get_by_role("status").first).to_have_text("live")
    await expect(other.locator(".slots a")).to_have_count(15)
    assert not [url for url in asked if url.endswith("/monitor/live")]
    await scene.page.close()
    async with asyncio.timeout(15):
        while not [url for url in asked if url.endswith("/monitor/live")]:
            await other.wait_for_timeout(50)
    scene.page = other
    [ended] = await scene.spawn(1)
    await expect(other.locator(".slots a")).to_have_count(16)
    await scene.system.call("DELETE", f"/api/v1/agents/{ended}")
    await expect(other.locator(".slots a")).to_have_count(15)


async def it_is_not_live_while_redis_is_frozen(scene: Scene) -> None:
    await scene.show("#/")
    await scene.live()
    server = scene.system.server()
    server.send_signal(signal.SIGSTOP)
    try:
        await expect(scene.mark).to_have_text("Redis does not answer", timeout=15_000)
        await expect(scene.page.locator(".banner.bad")).to_contain_text("as of")
        assert await inaccessible(scene.page) == []
        await scene.picture("redis-frozen")
    finally:
        server.send_signal(signal.SIGCONT)
    await scene.live()
    await expect(scene.page.locator(".banner.bad")).to_have_count(0)


async def it_survives_a_restart_of_the_gateway_without_a_reload(scene: Scene) -> None:
    await scene.page.evaluate("window.isTheSamePage = true")
    scene.system.role("gateway").kill()
    await expect(scene.mark).to_have_text("no connection", timeout=15_000)
    await scene.live()
    await scene.spawn(1)
    await expect(scene.page.get_by_text("16 / 20 slots")).to_be_visible(timeout=15_000)
    assert await scene.page.evaluate("window.isTheSamePage")


async def what_a_token_may_not_do_is_not_offered(scene: Scene) -> None:
    body = {"name": "reader", "scopes": ["read"]}
    status, made = await scene.system.call("POST", "/api/v1/tokens", body)
    assert status == 201
    await scene.page.get_by_role("button", name="Sign out").click()
    await scene.page.get_by_label("Token", exact=True).fill(made["token"])
    await scene.page.get_by_label("Token", exact=True).press("Enter")
    await scene.live()
    await scene.show(f"#/agent/{scene.agents[0]}")
    await expect(scene.page.get_by_role("heading", name="Life")).to_be_visible()
    assert await scene.page.get_by_role("button", name="Restart…").count() == 0
    assert await scene.page.get_by_role("button", name="Terminate…").count() == 0
    await scene.system.call("DELETE", "/api/v1/tokens/reader")
    await expect(scene.page.get_by_role("heading", name="Sign in")).to_be_visible()


async def a_token_for_some_projects_sees_their_agents(scene: Scene) -> None:
    body = {"name": "gemini", "scopes": ["read"], "projects": ["gemini"]}
    _, made = await scene.system.call("POST", "/api/v1/tokens", body)
    await scene.page.get_by_label("Token", exact=True).fill(made["token"])
    await scene.page.get_by_label("Token", exact=True).press("Enter")
    await scene.show("#/")
    await scene.page.get_by_role("main").get_by_role("link", name="agents").click()
    rows = scene.page.locator("tbody tr")
    await scene.page.get_by_role("button", name="failed").click()
    await expect(rows).to_have_count(2)
    await expect(scene.mark).to_have_text("not live")
    await scene.page.get_by_role("button", name="Sign out").click()


async def the_document_of_the_api_is_readable(scene: Scene) -> None:
    await scene.page.get_by_label("Token", exact=True).fill(TOKEN)
    await scene.page.get_by_label("Token", exact=True).press("Enter")
    await scene.live()
    await scene.show("docs")
    await scene.page.get_by_text("/api/v1/agents/spawn").first.click()
    await expect(scene.page.get_by_text("SpawnRequest").first).to_be_visible()
    assert await inaccessible(scene.page) == []


DAY = (
    one_signs_in_and_is_shown_what_to_do_first,
    agents_appear_by_themselves_and_are_reached_by_keyboard,
    an_alert_leads_to_the_stack_trace_and_to_a_restart,
    the_address_holds_the_view,
    every_page_is_accessible,
    all_tabs_share_one_connection_which_another_takes_over,
    it_is_not_live_while_redis_is_frozen,
    it_survives_a_restart_of_the_gateway_without_a_reload,
    what_a_token_may_not_do_is_not_offered,
    a_token_for_some_projects_sees_their_agents,
    the_document_of_the_api_is_readable,
)


async def test_a_day_at_the_dashboard(scene: Scene, subtests: pytest.Subtests) -> None:
    """Each part, without anything going wrong in the browser."""
    for part in DAY:
        with subtests.test(part.__name__):
            await part(scene)
            assert scene.problems == []
        scene.problems.clear()
