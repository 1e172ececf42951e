"""One agent, worker, pool, event or alert in full, kept current while it is shown."""

import asyncio
import textwrap
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final
from urllib.parse import quote

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Static

from muster.cli.arguments.command import CommandError
from muster.cli.client.shapes import (
    AgentAnswer,
    AlertAnswer,
    ExplanationAnswer,
    PoolAnswer,
    WorkerAnswer,
)
from muster.cli.events.lines import STYLES, RecordedEvent
from muster.cli.resources.agent_detail import error_lines, facts, when
from muster.cli.resources.explain import PATHS, left_out, position_text
from muster.cli.resources.workers import reason_text
from muster.cli.top.cells import slots, utilisation
from muster.cli.top.connection import Connection
from muster.cli.top.model import Model
from muster.terminal import render
from muster.terminal.render import Cell

LINES: Final = 50
REFRESH_SECONDS: Final = 2.0
MIN_WIDTH: Final = 20

Line = Sequence[Cell]


def subject_of(item: object) -> tuple[str, str]:
    """The kind and name of what can be read about an item; empty where there is nothing."""
    match item:
        case AgentAnswer():
            return "agent", item.agent_id
        case WorkerAnswer():
            return "worker", item.worker_id
        case PoolAnswer():
            return "pool", item.pool_name
        case RecordedEvent():
            kind, _, _ = item.fields.get("type", "").partition(".")
            return (kind, item.fields.get("subject", "")) if kind in PATHS else ("", "")
        case AlertAnswer() if item.pool_name:
            return "pool", item.pool_name
        case _:
            return "", ""


class Detail(Screen[None]):
    """Everything about one thing, with why it is so; orders about it work as in the lists."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,left,h", "app.pop_screen", "back", key_display="Esc"),
        Binding("up,k", "scroll(-1)", show=False),
        Binding("down,j", "scroll(1)", show=False),
        Binding("pageup", "scroll(-20)", show=False),
        Binding("pagedown,space", "scroll(20)", show=False),
        Binding("t", "app.order('terminate')", "terminate"),
        Binding("r", "app.order('restart')", "restart"),
        Binding("d", "app.order('drain')", "drain"),
        Binding("c", "app.order('cordon')", "cordon"),
        Binding("p", "app.order('pause')", "pause"),
    ]

    def __init__(self, connection: Connection, model: Model, item: object) -> None:
        super().__init__()
        self.item, self.lines = item, list[Line]()
        self.kind, self.name_of_it = subject_of(item)
        self._connection, self._model = connection, model

    def compose(self) -> ComposeResult:
        yield Static("", id="title")
        with VerticalScroll(id="detail", can_focus=False):
            yield Static("reading …", id="lines")
        yield Static("", id="keys")

    def on_mount(self) -> None:
        what = f"{self.kind} {self.name_of_it}" if self.kind else "alert"
        self.query_one("#title", Static).update(Text(f" {what}", "bold"))
        keys = {"agent": "t terminate  r restart", "worker": "d drain  c cordon", "pool": "p pause"}
        shown = f" Esc back  {keys.get(self.kind, '')}"
        self.query_one("#keys", Static).update(Text(shown, "dim"))
        self._keep_current()

    def say(self, text: Cell) -> None:
        """Show what came of an order."""
        self.query_one("#keys", Static).update(Text(f" {text.text}", text.style))

    def action_scroll(self, lines: int) -> None:
        self.query_one("#detail", VerticalScroll).scroll_relative(y=lines, animate=False)

    @work(exclusive=True)
    async def _keep_current(self) -> None:
        while True:
            try:
                self.lines = await self._read()
            except CommandError as error:
                self.lines = [*_about(self.item), [Cell(f"not read: {error}", "red")]]
            width = max(self.query_one("#detail").content_size.width - 1, 20)
            text = Text("\n").join(laid for line in self.lines for laid in laid_out(line, width))
            self.query_one("#lines", Static).update(text)
            await asyncio.sleep(REFRESH_SECONDS)

    async def _read(self) -> list[Line]:
        lines, pool = _about(self.item), None
        if not self.kind:
            return lines
        path = f"{PATHS[self.kind]}/{quote(self.name_of_it, safe='')}"
        answer = await self._connection.get(path)
        match self.kind:
            case "agent":
                agent = answer.read(AgentAnswer)
                self.item, lines = agent, [*lines, *agent_lines(agent)]
            case "worker":
                worker = answer.read(WorkerAnswer)
                self.item, lines = worker, [*lines, *worker_lines(worker, self._model)]
            case _:
                pool = answer.read(PoolAnswer)
                self.item, lines = pool, [*lines, *pool_lines(pool, self._model)]
        explained = await self._connection.get(f"{path}/explain", {"limit": LINES})
        lines = [*lines, *explanation_lines(explained.read(ExplanationAnswer))]
        return [*lines, *settings_lines(pool)] if pool else lines


def _about(item: object) -> list[Line]:
    """What the list itself knows of an event or an alert."""
    rows: Sequence[tuple[str, str]]
    match item:
        case AlertAnswer():
            rows = (
                ("alert", f"{item.name} ({item.severity})"),
                ("about", item.pool_name or item.subject),
                ("since", when(item.since)),
                ("how many", f"{item.count:,}"),
                ("what", item.message),
                ("what to do", item.action),
                ("runbook", item.runbook),
            )
        case RecordedEvent():
            rows = tuple((name, text) for name, text in item.fields.items() if text)
        case _:
            return []
    return [*_named(rows), []]


def _named(rows: Sequence[tuple[str, Cell | str]]) -> list[Line]:
    found: list[Line] = []
    for name, value in rows:
        cell = value if isinstance(value, Cell) else Cell(value)
        if text := render.one_line(cell.text):
            found.append([Cell(f"{name:<16}", "dim"), Cell(text, cell.style)])
    return found


def agent_lines(agent: AgentAnswer) -> list[Line]:
    """Its state, and its last error with the stack."""
    lines = _named(facts(agent, ()))
    if agent.last_error is not None:
        lines += [[], [Cell("last error", "bold")]]
        lines += [[Cell(f"  {line}", "red")] for line in error_lines(agent.last_error)]
    return lines


def worker_lines(worker: WorkerAnswer, model: Model) -> list[Line]:
    """Its state, its slots, and the agents in them."""
    rows = (
        ("pool", worker.pool_name),
        ("host", worker.host),
        ("pid", str(worker.pid or "")),
        ("status", render.status(worker.status)),
        ("reason", reason_text(worker)),
        ("started", when(worker.started_at)),
        ("last heartbeat", when(worker.last_heartbeat)),
        ("loop lag", f"{worker.loop_lag_ms:.1f} ms"),
        ("memory", render.size(worker.memory_bytes) if worker.memory_bytes else ""),
        ("ended", when(worker.ended_at)),
    )
    agents = model.by_worker.get(worker.worker_id, ())
    shown = [
        [
            Cell(f"  {agent.agent_id}  "),
            render.status(agent.status),
            Cell(f" {agent.activity:<5} {agent.role_type} for {agent.project_id}", "dim"),
        ]
        for agent in agents
    ]
    return [*_named(rows), [Cell(f"{'slots':<16}", "dim"), *slots(worker, agents)], *shown]


def pool_lines(pool: PoolAnswer, model: Model) -> list[Line]:
    """Its capacity, and what waits."""
    share = f" {pool.used_capacity}/{pool.total_capacity}"
    bar = utilisation(pool.used_capacity, pool.total_capacity, 20)
    rows = (
        ("role", pool.role_type),
        ("workers", f"{pool.process_count:,}"),
        ("pending", f"{pool.pending_count:,} {model.waits_for(pool.pool_name)}"),
        ("failed", f"{model.failed(pool.pool_name):,}"),
        ("paused", str(pool.config.get("paused") or "")),
    )
    used: Line = [Cell(f"{'used':<16}", "dim"), bar, Cell(share)]
    return [used, *_named(rows)]


def settings_lines(pool: PoolAnswer) -> list[Line]:
    """Its settings that are set."""
    settings = "  ".join(
        f"{name}={value if isinstance(value, str) else render.json_line(value)}"
        for name, value in pool.config.items()
        if value not in (None, "", {}, [])
    )
    return [[], [Cell("settings  ", "bold"), Cell(settings)]]


def explanation_lines(explanation: ExplanationAnswer) -> list[Line]:
    """What happened and why, the oldest first."""
    lines: list[Line] = [[], [Cell("why  ", "bold"), Cell(explanation.now)]]
    shown = {line.event for line in explanation.lines}
    for at, one in enumerate(explanation.lines):
        style = STYLES.get(one.type.partition(".")[2], "")
        lines.append([_clock(one.ts), Cell(f"{one.text} ({position_text(one.position)})", style)])
        cause = one.cause
        if cause is not None and cause.text and cause.event not in shown:
            because = f"because of {position_text(cause.position)}: {cause.text}"
            lines.append([Cell(" " * 12), Cell(because, "dim")])
        if at == 0 and (note := left_out(explanation)):
            lines.append([Cell(" " * 12), Cell(f"({note} left out: muster explain)", "dim")])
    return lines


def _clock(ms: int | None) -> Cell:
    return Cell(f"{render.timestamp(ms or 0)[-12:-4]:>10}  ", "dim")


def laid_out(line: Line, width: int) -> Iterator[Text]:
    """A line in as many as it needs; what its last cell says goes on below its beginning."""
    *first, last = line or [Cell("")]
    head = Text.assemble(*((render.clean(cell.text), cell.style) for cell in first))
    space = max(width - head.cell_len, MIN_WIDTH)
    indent = min(head.cell_len, max(width - MIN_WIDTH, 0))
    text = render.clean(last.text)
    parts = textwrap.wrap(text, space, drop_whitespace=False) or [""]
    for number, part in enumerate(parts):
        begin = head if number == 0 else Text(" " * indent)
        yield Text.assemble(begin, (part.rstrip() if number == 0 else part.strip(), last.style))
