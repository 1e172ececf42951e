"""`muster top` against a real `muster up`, driven by its keys.

pytest tests/integration/muster/test_top.py --pictures           draws docs/pictures/top.svg
"""

import asyncio
import json
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from html import unescape
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest
from textual.pilot import Pilot

import muster
from muster.__main__ import main
from muster.cli.client.shapes import AgentAnswer
from muster.cli.top.app import Top
from muster.cli.top.connection import Connection
from muster.cli.top.detail import Detail
from muster.cli.top.dialogs import Confirm, Message
from tests.process import ServerProcess
from tests.waiting import until

PICTURE = Path(__file__).parents[3] / "docs" / "pictures" / "top.svg"
SECONDS = 30.0
AGENTS = """
from muster import Agent, Context

class Developer(Agent):
    async def run(self, context: Context) -> None:
        if context.input.get("busy"):
            await context.stopping.wait()
        async with context.idle():
            await context.stopping.wait()

class Importer(Agent):
    async def start(self, context: Context) -> None:
        raise ValueError("no model named `large-9`")
"""
CONFIGURATION = """
[roles.developer]
agent = "shown:Developer"
[roles.importer]
agent = "shown:Importer"
[pools.developer_pool]
role = "developer"
[pools.import_pool]
role = "importer"
start_limit = 1
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Muster with 23 agents that run, and one that failed; the address of its gateway."""
    folder = tmp_path_factory.mktemp("top")
    (folder / "shown.py").write_text(AGENTS)
    (folder / "muster.toml").write_text(CONFIGURATION)
    data = folder / "data"
    words = ["up", "--data-dir", str(data), "--port", "0", "--config", str(folder / "muster.toml")]
    environment = {"PYTHONPATH": str(Path(muster.__file__).parent.parent)}
    process = ServerProcess(
        [sys.executable, "-m", "muster", *words], folder / "up.out", environment=environment
    )
    process.start((data / "running.json").exists)
    where = ["--data-dir", str(data), "--no-wait"]
    idle = ["spawn", "developer_pool", "--project", "demo", "--count", "9", *where]
    busy = ["spawn", "developer_pool", "--project", "shop", "--count", "14", *where]
    assert main(idle) == main([*busy, "--input", '{"busy": true}']) == 0
    assert main(["spawn", "import_pool", "--project", "web", *where]) == 0
    yield json.loads((data / "running.json").read_text())["url"]
    process.end([signal.SIGTERM], timeout=20)


@asynccontextmanager
async def shown(
    url: str, size: tuple[int, int] = (80, 24), *, failed: int = 1
) -> AsyncIterator[tuple[Top, Pilot[None]]]:
    """The screen, once all agents are on it."""
    async with Connection(url, "") as connection:
        app = Top(connection)
        async with app.run_test(size=size) as pilot:

            def is_read() -> bool:
                states = [agent.status for agent in app.model.agents]
                return states.count("running") >= 20 and states.count("failed") >= failed

            await until(is_read, timeout=SECONDS, what="all agents")
            yield app, pilot


def text(app: Top) -> str:
    """All that is on the screen, as its picture has it."""
    svg = app.export_screenshot()
    lines: dict[str, str] = {}
    for at, part in re.findall(r'<text class="[^"]*"[^>]* y="([^"]+)"[^>]*>([^<]*)</text>', svg):
        lines[at] = lines.get(at, "") + unescape(part)
    return "\n".join(lines.values()).replace("\xa0", " ")


async def seen(app: Top, *words: str) -> None:
    """Wait until all words are on the screen."""
    try:
        await until(lambda: all(word in text(app) for word in words), timeout=SECONDS, interval=0.1)
    except AssertionError:
        raise AssertionError(f"{words} are not all on the screen:\n{text(app)}") from None


def activities(app: Top) -> Counter[str]:
    return Counter(agent.activity for agent in app.model.agents if agent.status == "running")


async def test_it_shows_what_is_wrong_and_every_list(url, request):
    async with shown(url) as (app, pilot):
        await seen(app, "23 agents on", "1 failed", "agent-failed", "live", "developer_pool")
        for key, words in {
            "2": ("SLOTS", "10/10", "3/10", "□ idle"),
            "3": ("STATE", "failed", "running", "import_pool"),
            "4": ("EVENT", "agent.failed", "…"),
            "5": ("ALERT", "agent-failed"),
            "1": ("POOL", "23/30", "import_pool"),
        }.items():
            await pilot.press(key)
            await seen(app, *words)
        await pilot.press("2")
        await seen(app, "SLOTS")
        if request.config.getoption("--pictures"):
            await until(lambda: activities(app) == {"busy": 14, "idle": 9}, timeout=SECONDS)
            await pilot.resize_terminal(104, 18)
            await pilot.press("j", "c", *"its memory grows", "enter")
            await until(
                lambda: any(one.cordoned for one in app.model.snapshot.workers), timeout=SECONDS
            )
            await pilot.press("2")
            await seen(app, "cordoned", "d drain")
            PICTURE.parent.mkdir(exist_ok=True)
            PICTURE.write_text(app.export_screenshot(title="muster top"))
            await pilot.press("c", "enter")
            await until(lambda: "uncordoned" in app.result.text, timeout=SECONDS)
            await pilot.press("2")
        stored = unescape(PICTURE.read_text()).replace("\xa0", " ")
        for word in ("WORKER", "STATUS", "□ idle", "Enter detail  / filter", "5 alerts"):
            assert (word in text(app), word in stored) == (True, True), word


async def test_three_keys_lead_from_a_failure_to_its_stack(url):
    async with shown(url) as (app, pilot):
        await pilot.press("3", "enter")
        await until(lambda: isinstance(app.screen, Detail), timeout=SECONDS)
        await seen(app, "last error", "Traceback", "in start", "no model named `large-9`", "why")
        await pilot.press("escape")
        await seen(app, "[3 agents")


async def test_a_filter_an_order_and_marks(url):
    async with shown(url) as (app, pilot):
        await pilot.press("3", "slash", *"state:running", "enter")
        await seen(app, "23 with /")
        assert all(agent.status == "running" for agent in app.current_list.items)
        await pilot.press("s", "S", "space", "space", "t")
        await until(lambda: isinstance(app.screen, Confirm), timeout=SECONDS)
        await seen(app, "Terminate 2 agents?", "Type 2 and Enter")
        await pilot.press("3", "enter")
        await seen(app, "3 is not 2")
        before = len(app.model.agents)
        await pilot.press("backspace", "2", "enter")
        await until(
            lambda: "2 agents terminated" in app.result.text,
            timeout=SECONDS,
            what="the result",
        )
        await until(lambda: len(app.model.agents) == before - 2, timeout=SECONDS)
        await pilot.press("escape")
        assert (app.filters["agents"], app.current_list.marked) == ("", set())


async def test_workers_and_pools_are_acted_on_after_a_confirmation(url):
    async with shown(url) as (app, pilot):
        await pilot.press("2", "t")
        await seen(app, "terminate: this key acts on agents")
        await pilot.press("c")
        await seen(app, "Cordon worker", "It gets no more agents")
        await pilot.press("escape")
        await seen(app, "not confirmed: nothing was done")
        await pilot.press("c", *"memory", "enter")
        await seen(app, "cordoned: memory")
        await pilot.press("c", "enter")
        await until(lambda: "uncordoned" in app.result.text, timeout=SECONDS)
        await pilot.press("1", "p", *"moves", "enter")
        await seen(app, "paused: moves")
        await pilot.press("p")
        await seen(app, "It was paused: moves")
        await pilot.press("y")
        await until(lambda: "resumed" in app.result.text, timeout=SECONDS)


async def test_a_refusal_is_listed_with_its_reason(url):
    async with shown(url) as (app, pilot):
        await pilot.press("3", "enter")
        await until(lambda: isinstance(app.screen, Detail), timeout=SECONDS)
        assert isinstance(app.screen, Detail)
        known = {"agent_id": "0", "pool_name": "import_pool"}
        app.screen.item = msgspec.convert(known, AgentAnswer)
        await pilot.press("t")
        await until(lambda: isinstance(app.screen, Confirm), timeout=SECONDS)
        await pilot.press("y")
        await until(lambda: isinstance(app.screen, Message), timeout=SECONDS)
        await seen(app, "agent 0 was not terminated", "a UUID in lower case")


class Way:
    """A connection to the gateway that can be interrupted."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._to, self.port = (parts.hostname, parts.port), 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other = await asyncio.open_connection(*self._to)
        self._writers |= {writer, other}
        await asyncio.gather(_copy(reader, other), _copy(other_reader, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def test_a_gateway_that_is_gone_is_said_and_found_again(url):
    way = Way(url)
    await way.open()
    async with shown(f"http://127.0.0.1:{way.port}") as (app, pilot):
        number = len(app.model.agents)
        await way.close()
        await seen(app, "no connection since")
        assert len(app.model.agents) == number
        await pilot.press("3", "j", "2", "1")
        await way.open()
        await seen(app, "live")
        await until(lambda: app.model.lost_at is None, timeout=SECONDS)
    await way.close()


async def test_colours_can_be_left_out(url, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    async with shown(url) as (app, pilot):
        await pilot.press("2")
        await seen(app, "SLOTS", "10/10")
        found = set(re.findall(r"fill: #([0-9a-f]{6})", app.export_screenshot()))
        coloured = {one for one in found if len({one[:2], one[2:4], one[4:]}) > 1}
        assert coloured == {"c5c8c6"}  # what the picture has for the terminal's own colour


async def test_help_names_the_keys_and_q_quits(url):
    async with shown(url, failed=0) as (app, pilot):
        await pilot.press("question_mark")
        await seen(app, "Keys", "filter", "terminate, restart agents")
        await pilot.press("escape", "q")
        await until(lambda: not app.is_running, timeout=SECONDS)
    assert app.return_code == 0


def test_without_a_terminal_it_says_what_to_use_instead(url, capsys):
    assert main(["top", "--url", url]) == 2
    assert "this needs a terminal; `muster ps --watch`" in capsys.readouterr().err
