"""`muster top`: the screen. What is wrong on top, lists below it, and keys that act on them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import ContentSwitcher, Input, Static

from muster.cli.client.shapes import AgentAnswer, PoolAnswer, WorkerAnswer
from muster.cli.top import cells, orders, panes
from muster.cli.top.connection import Connection
from muster.cli.top.detail import Detail
from muster.cli.top.dialogs import Confirm, failure_screen, help_screen
from muster.cli.top.feed import Feed
from muster.cli.top.model import Model
from muster.cli.top.orders import Order
from muster.cli.top.rows import Rows
from muster.terminal import render
from muster.terminal.render import Cell

REDRAW_SECONDS: Final = 0.5
AGES_SECONDS: Final = 1.0
"""How often ages are drawn again where nothing has changed."""
TROUBLES_MAX: Final = 4
KEYS: Final = {
    "pools": "p pause",
    "workers": "d drain  c cordon",
    "agents": "t terminate  r restart",
}
ORDERS: Final[dict[str, tuple[type, Callable[[Sequence[Any]], Order], str]]] = {
    "terminate": (AgentAnswer, orders.terminate, "agents"),
    "restart": (AgentAnswer, orders.restart, "agents"),
    "drain": (WorkerAnswer, orders.drain, "workers"),
    "cordon": (WorkerAnswer, orders.cordon, "workers"),
    "pause": (PoolAnswer, orders.pause, "pools"),
}
"""By name: what it acts on, what makes it, and the list where that is."""


class Top(App[None]):
    """Shows one Muster until q is pressed."""

    CSS_PATH = "top.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"tab('{name}')", show=False) for n, name in enumerate(panes.TABS, 1)),
        Binding("right,l,tab", "next_tab(1)", show=False),
        Binding("left,h,shift+tab", "next_tab(-1)", show=False),
        Binding("slash", "filter", show=False),
        Binding("s", "sort", show=False),
        Binding("S", "reverse", show=False),
        *(Binding(name[0], f"order('{name}')", show=False) for name in ORDERS),
        Binding("escape", "clear", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q", "quit", show=False),
        Binding("ctrl+c", "quit", show=False, priority=True),
    ]

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self.connection, self.model = connection, Model()
        self.feed = Feed(connection, self.model)
        self.lists: dict[str, Rows[Any]] = {
            "pools": panes.pools(self.model),
            "workers": panes.workers(self.model),
            "agents": panes.agents(),
            "events": panes.events(),
            "alerts": panes.alerts(),
        }
        self.filters = dict.fromkeys(panes.TABS, "")
        self.result = Cell("")
        """What came of the last order."""
        self.drawn = 0
        """How often the lists were drawn."""
        self._drawn_changes, self._drawn_at, self._read_at = -1, 0.0, ""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="troubles")
        yield Static(id="tabs")
        with ContentSwitcher(initial="pools", id="lists"):
            yield from self.lists.values()
        yield Static(id="legend")
        with Vertical(id="bottom"):
            yield Input(id="filter", placeholder="words that must all be found; state:failed")
            yield Static(id="keys")

    def on_mount(self) -> None:
        self.theme = "textual-dark"
        self.current_list.focus()
        self._run_feed()
        self.set_interval(REDRAW_SECONDS, self._tick)
        self._draw()

    @work(exclusive=True, group="feed")
    async def _run_feed(self) -> None:
        await self.feed.run()

    # ---- drawing -----------------------------------------------------------------------------

    @property
    def tab(self) -> str:
        """The name of the list that is shown."""
        return self.query_one("#lists", ContentSwitcher).current or "pools"

    @property
    def current_list(self) -> Rows[Any]:
        return self.lists[self.tab]

    def _tick(self) -> None:
        """Draw what has changed since the last time; ages and silence change by themselves."""
        is_due = time.monotonic() - self._drawn_at >= AGES_SECONDS
        if (self.model.changes != self._drawn_changes or is_due) and not isinstance(
            self.screen, Detail
        ):
            self._draw()

    def _draw(self) -> None:
        model = self.model
        if model.changes != self._drawn_changes and model.lost_at is None and model.is_read:
            self._read_at = time.strftime("%H:%M:%S")
        self._drawn_changes, self._drawn_at = model.changes, time.monotonic()
        self.drawn += 1
        base = self.screen_stack[0]
        self._update("title", self._title(base.size.width))
        self._update("troubles", self._troubles())
        self._update("tabs", self._tabs())
        self._update("legend", Text(f" {cells.LEGEND}" if self.tab == "workers" else ""))
        self._update("keys", self._keys())
        base.query_one("#legend").display = self.tab == "workers"
        self._show_items()

    def _update(self, name: str, text: Text) -> None:
        base = self.screen_stack[0]
        lines = text.split(allow_blank=True)
        for line in lines:
            line.truncate(max(base.size.width, 1), overflow="ellipsis")
        base.query_one(f"#{name}", Static).update(Text("\n").join(lines))

    def _show_items(self) -> None:
        model, snapshot = self.model, self.model.snapshot
        items: dict[str, Sequence[Any]] = {
            "pools": snapshot.pools,
            "workers": snapshot.workers,
            "agents": sorted(model.agents, key=cells.urgency),
            "alerts": snapshot.alerts,
        }
        if self.tab == "events":
            items["events"] = list(reversed(model.events))
        shown = panes.matching(items[self.tab], self.filters[self.tab])
        self.lists[self.tab].show(shown)

    def _title(self, width: int) -> Text:
        left = _text([Cell(" muster top  ", "bold"), *cells.summary_cells(self.model)])
        right = _text(cells.connection_cells(self.model, time.monotonic(), self._read_at))
        left.truncate(max(width - right.cell_len - 2, 1), overflow="ellipsis")
        left.append(" " * max(width - left.cell_len - right.cell_len - 1, 1))
        return left.append_text(right)

    def _troubles(self) -> Text:
        model, now_ms = self.model, time.time() * 1000
        if model.lost_at is not None and model.problem:
            return _text([Cell(" !! ", "bold red"), Cell(render.one_line(model.problem), "red")])
        if not model.is_read:
            return Text("")
        troubles = model.troubles
        if not troubles:
            return _text([Cell(" ✓  nothing is wrong", "green")])
        lines = [_text(cells.trouble_cells(one, now_ms)) for one in troubles[:TROUBLES_MAX]]
        if (more := len(troubles) - TROUBLES_MAX) > 0:
            lines[-1] = _text([Cell(f" …  {more + 1} more kinds: 5 shows all", "bold")])
        return Text("\n").join(lines)

    def _tabs(self) -> Text:
        snapshot = self.model.snapshot
        numbers = {
            "pools": len(snapshot.pools),
            "workers": len(snapshot.workers),
            "agents": len(self.model.agents),
            "alerts": len(snapshot.alerts),
        }
        found = Text(" ")
        for number, name in enumerate(panes.TABS, 1):
            count = f" {numbers[name]:,}" if name in numbers else ""
            count += "+" if name == "agents" and self.model.agents_more else ""
            if name == self.tab:
                found.append(f"[{number} {name}{count}]", "bold reverse")
            else:
                found.append(f" {number} {name}{count} ", "")
            found.append(" ")
        if words := self.filters[self.tab]:
            found.append(f" {len(self.current_list.items):,} with /{words}", "yellow")
        return found

    def _keys(self) -> Text:
        if self.result.text:
            return _text([Cell(f" {self.result.text}", self.result.style)])
        marked = len(self.current_list.marked)
        own = KEYS.get(self.tab, "")
        return _text(
            [
                Cell(f" {marked:,} marked  " if marked else " ", "bold"),
                Cell(f"{own}  " if own else ""),
                Cell("Enter detail  / filter  s sort  ? help  q quit", "dim"),
            ]
        )

    # ---- keys --------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of the lists do nothing on another screen, except to act on what that shows."""
        on_top = len(self.screen_stack) > 1
        if on_top and action in {"tab", "next_tab", "filter", "sort", "reverse", "clear", "help"}:
            return False
        if action == "order":
            return not on_top or isinstance(self.screen, Detail)
        return super().check_action(action, parameters)

    def action_tab(self, name: str) -> None:
        self.query_one("#lists", ContentSwitcher).current = name
        self.result = Cell("")
        self.current_list.focus()
        self._draw()

    def action_next_tab(self, step: int) -> None:
        at = panes.TABS.index(self.tab)
        self.action_tab(panes.TABS[(at + step) % len(panes.TABS)])

    def action_sort(self) -> None:
        self.current_list.sort_next()

    def action_reverse(self) -> None:
        self.current_list.reverse()

    def action_filter(self) -> None:
        typed = self.query_one("#filter", Input)
        typed.value = self.filters[self.tab]
        typed.display = True
        typed.focus()

    def action_clear(self) -> None:
        """End the filter and remove the marks."""
        self.query_one("#filter", Input).display = False
        self.filters[self.tab], self.result = "", Cell("")
        self.current_list.marked.clear()
        self.current_list.focus()
        self._draw()

    def action_help(self) -> None:
        _ = self.push_screen(help_screen())

    @on(Input.Changed, "#filter")
    def _filter_changed(self, event: Input.Changed) -> None:
        if self.query_one("#filter", Input).display:
            self.filters[self.tab] = event.value
            self._draw()

    @on(Input.Submitted, "#filter")
    def _filter_entered(self) -> None:
        self.query_one("#filter", Input).display = False
        self.current_list.focus()

    @on(Rows.Chosen)
    def _show_detail(self, event: Rows.Chosen) -> None:
        _ = self.push_screen(Detail(self.connection, self.model, event.item))

    # ---- acting ------------------------------------------------------------------------------

    def action_order(self, name: str) -> None:
        """Ask, and then do it: for what is marked, or what the cursor is on."""
        kind, make, place = ORDERS[name]
        selected = self._selected()
        if not selected or not all(isinstance(one, kind) for one in selected):
            self._say(f"{name}: this key acts on {place}", "yellow")
            return
        self._carry_out(make(selected))

    def _selected(self) -> Sequence[object]:
        if isinstance(self.screen, Detail):
            return [self.screen.item]
        return self.current_list.selected

    @work
    async def _carry_out(self, order: Order) -> None:
        reason = await self.push_screen_wait(Confirm(order))
        if reason is None:
            self._say("not confirmed: nothing was done", "dim")
            return
        number = render.count(len(order.calls), order.noun)
        self._say(f"asked for {number}: waiting …", "dim")
        result = await orders.carry_out(self.connection, order, reason)
        self.current_list.marked.clear()
        self._say(result.summary, "bold red" if result.failures else "bold green")
        if result.failures:
            _ = self.push_screen(failure_screen(result))
        self.feed.wake()

    def _say(self, text: str, style: str) -> None:
        self.result = Cell(text, style)
        if isinstance(self.screen, Detail):
            self.screen.say(self.result)
        self._draw()

    async def action_quit(self) -> None:
        self.workers.cancel_all()
        await asyncio.sleep(0)
        self.exit()


def _text(parts: Sequence[Cell]) -> Text:
    return Text.assemble(*((render.clean(cell.text), cell.style) for cell in parts))
