"""A list of any length: only the lines that can be seen are made, so thousands cost what ten do."""

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from msgspec import Struct
from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from muster.terminal import render
from muster.terminal.render import Cell

T = TypeVar("T")
GAP = 2
MARGIN = 2
"""For the sign of the line that the cursor is on, and for marks."""
LAST_MIN = 10
CURSOR, MARK = ">", "*"
CHOSEN = Style(bgcolor="#264f78", bold=True)


class Shown(Struct, Generic[T], frozen=True):
    """A column: its cells for an item at a time in ms since 1970. The last one takes what is left.

    `drop`: the higher, the sooner it is dropped where the width is short (0: never). `key`: what it
    is sorted by; None: not at all.
    """

    name: str
    width: int
    cell: Callable[[T, float], "Cell | str | Sequence[Cell]"]
    right: bool = False
    drop: int = 0
    key: Callable[[T], Any] | None = None


class Rows(ScrollView, Generic[T], can_focus=True):
    """Lines with a cursor, marks and an order. The cursor stays on its item if that moves."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", show=False),
        Binding("down,j", "move(1)", show=False),
        Binding("pageup,ctrl+b", "page(-1)", show=False),
        Binding("pagedown,ctrl+f", "page(1)", show=False),
        Binding("home,g", "move(-1000000000)", show=False),
        Binding("end,G", "move(1000000000)", show=False),
        Binding("enter", "choose", show=False),
        Binding("space", "mark", show=False),
    ]

    class Chosen(Message):
        """Enter was pressed on an item."""

        def __init__(self, rows: "Rows[Any]", item: object) -> None:
            self.rows, self.item = rows, item
            super().__init__()

    def __init__(
        self,
        columns: Sequence[Shown[T]],
        identity: Callable[[T], str],
        empty: str,
        id: str,  # noqa: A002  (Textual's name)
        *,
        marks: bool = False,
    ) -> None:
        super().__init__(id=id)
        self.columns, self.identity, self.empty = columns, identity, empty
        self.items: Sequence[T] = ()
        self.marked: set[str] = set()
        self.sort: str = ""
        """The name of the column that the items are in order of; empty: as they come."""
        self.descending = False
        self._marks, self._cursor, self._at = marks, 0, ""

    # ---- the items ---------------------------------------------------------------------------

    def show(self, items: Sequence[T]) -> None:
        """Show these; the cursor stays on its item, else on its line."""
        self.items = self._ordered(items)
        ids = [self.identity(item) for item in self.items]
        if self._at and self._at in ids:
            self._cursor = ids.index(self._at)
        self.marked &= set(ids)
        self.virtual_size = Size(self.size.width, len(self.items) + 1)
        self._put_cursor(self._cursor, scroll=False)
        self.refresh()

    @property
    def current(self) -> T | None:
        """The item that the cursor is on."""
        return self.items[self._cursor] if self._cursor < len(self.items) else None

    @property
    def selected(self) -> list[T]:
        """The marked items; where none is, the one that the cursor is on."""
        if self.marked:
            return [item for item in self.items if self.identity(item) in self.marked]
        return [] if self.current is None else [self.current]

    def sort_next(self) -> None:
        """Put the items in the order of the next column; after the last one, as they come."""
        names = ["", *(column.name for column in self.columns if column.key)]
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self.show(self.items)

    def reverse(self) -> None:
        self.descending = not self.descending
        self.show(self.items)

    def _ordered(self, items: Sequence[T]) -> Sequence[T]:
        key = next((column.key for column in self.columns if column.name == self.sort), None)
        if key is None:
            return items
        return sorted(items, key=key, reverse=self.descending)

    # ---- the cursor --------------------------------------------------------------------------

    def _put_cursor(self, line: int, *, scroll: bool = True) -> None:
        self._cursor = min(max(line, 0), max(len(self.items) - 1, 0))
        self._at = self.identity(self.items[self._cursor]) if self.items else ""
        top, height = int(self.scroll_offset.y), max(self.size.height - 1, 1)
        if scroll and self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif scroll and self._cursor >= top + height:
            self.scroll_to(y=self._cursor - height + 1, animate=False)
        self.refresh()

    def action_move(self, lines: int) -> None:
        self._put_cursor(self._cursor + lines)

    def action_page(self, pages: int) -> None:
        self._put_cursor(self._cursor + pages * max(self.size.height - 2, 1))

    def action_choose(self) -> None:
        if self.current is not None:
            self.post_message(self.Chosen(self, self.current))

    def action_mark(self) -> None:
        if self._marks and self._at:
            self.marked ^= {self._at}
            self._put_cursor(self._cursor + 1)

    def on_click(self, event: Click) -> None:
        if event.y > 0 and (line := int(self.scroll_offset.y) + event.y - 1) < len(self.items):
            again = line == self._cursor
            self._put_cursor(line)
            if again:
                self.action_choose()

    def on_resize(self, _: Resize) -> None:
        self.virtual_size = Size(self.size.width, len(self.items) + 1)

    # ---- the lines ---------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """The heading; below it the items from the one that is scrolled to."""
        width, base = self.size.width, self.rich_style
        line = int(self.scroll_offset.y) + y - 1
        if y == 0:
            cells = self._heading(width)
            style = base + Style(bold=True)
        elif line < len(self.items):
            cells = self._line(self.items[line], width, on_cursor=line == self._cursor)
            is_chosen = line == self._cursor and self.has_focus
            style = base + CHOSEN if is_chosen else base
        else:
            cells = [Cell(f"  {self.empty}" if y == 1 and not self.items else "", "dim")]
            style = base
        segments = [Segment(one.text, style + Style.parse(one.style)) for one in cells]
        return Strip(segments).adjust_cell_length(width, style)

    def _fitting(self, width: int) -> list[tuple[Shown[T], int]]:
        """The columns that fit, each with its width."""
        shown = list(self.columns)

        def needed() -> int:
            widths = sum(column.width + GAP for column in shown[:-1])
            return MARGIN + widths + min(shown[-1].width, LAST_MIN)

        while needed() > width and (droppable := [one for one in shown if one.drop]):
            shown.remove(max(droppable, key=lambda one: one.drop))
        widths = [column.width for column in shown]
        widths[-1] = max(width - MARGIN - sum(one + GAP for one in widths[:-1]), 1)
        return list(zip(shown, widths, strict=True))

    def _heading(self, width: int) -> list[Cell]:
        cells = [Cell(" " * MARGIN)]
        for column, size in self._fitting(width):
            sign = ("↓" if self.descending else "↑") if column.name == self.sort else ""
            cells.append(Cell(_sized(column.name + sign, size, right=column.right)))
            cells.append(Cell(" " * GAP))
        return cells

    def _line(self, item: T, width: int, *, on_cursor: bool) -> list[Cell]:
        mark = MARK if self.identity(item) in self.marked else " "
        cells = [Cell(f"{CURSOR if on_cursor else ' '}{mark}")]
        now_ms = time.time() * 1000
        for column, size in self._fitting(width):
            found = column.cell(item, now_ms)
            if isinstance(found, str | Cell):
                cell = found if isinstance(found, Cell) else Cell(found)
                text = render.one_line(cell.text) or "-"
                if cell_len(text) > size and cell.short:
                    text = cell.short
                cells.append(Cell(_sized(text, size, right=column.right), cell.style))
            else:
                used = sum(cell_len(cell.text) for cell in found)
                cells += [*found, Cell(" " * max(size - used, 0))]
            cells.append(Cell(" " * GAP))
        return cells


def _sized(text: str, width: int, *, right: bool = False) -> str:
    """Text of exactly this width; what is cut ends with `…`."""
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, max(width - 1, 0)) + "…"
    return " " * (width - length) + text if right else text + " " * (width - length)
