"""How the command line prints: tables, times, JSON.

At a terminal a table has colour and fits the width: columns that matter least are dropped first,
the last one is cut. In a pipe it is complete, plain and aligned, so that `awk` and `grep` find
every column. Text from agents may contain control characters; they never reach the terminal.
"""

import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import msgspec
from msgspec import Struct

if TYPE_CHECKING:  # it takes a while, and is for terminals only
    from rich.console import Console
    from rich.text import Text

GAP = "   "
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Also what breaks lines or changes the direction of writing, and so could fake other text."""
_LINE_BREAKS = re.compile(r"[\t\n]+ *")

STATUS_STYLES = {
    "green": ("running", "active", "joined"),
    "yellow": ("pending", "restarting", "suspect"),
    "cyan": ("starting", "requested", "stopping", "draining"),
    "red": ("failed", "lost"),
    "dim": ("terminated", "stopped"),
}


class Cell(Struct, frozen=True):
    """A text and its style at a terminal. `short`: instead, where the terminal is too narrow."""

    text: str
    style: str = ""
    short: str = ""


class Column(Struct, frozen=True):
    """A column; the higher `drop`, the sooner it is dropped where the width is short (0: never)."""

    name: str
    right: bool = False
    drop: int = 0


Row: TypeAlias = Sequence[Cell | str]


class Table(Struct, frozen=True):
    columns: tuple[Column, ...]
    rows: Sequence[Row]


def at_terminal() -> bool:
    """Whether our standard output is a terminal."""
    return sys.stdout.isatty()


def console(*, stderr: bool = False) -> "Console":
    """A rich console that prints text as it is."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def line_printer() -> Callable[[Sequence[Cell]], None]:
    """A function that prints a line of cells: coloured at a terminal, else plain."""
    if not at_terminal():
        return lambda cells: print(join(cells), flush=True)
    from rich.text import Text

    screen = console()
    return lambda cells: screen.print(
        Text.assemble(*((cell.text, cell.style) for cell in cells)), soft_wrap=True
    )


def join(cells: Sequence[Cell]) -> str:
    """Cells as plain text."""
    return "".join(cell.text for cell in cells).rstrip()


def show(table: Table, below: Sequence[str] = (), *, header: bool = True, fit: bool = True) -> None:
    """Print a table. `below`: by row, the text under it, if any.

    `fit`: at a terminal it is made as narrow as that is.
    """
    under = ["", *(below or [""] * len(table.rows))]
    screen = console() if at_terminal() else None
    width = screen.width if screen and fit else None
    lines: Sequence[Text | str] = styled(table, width) if screen else plain(table)
    for line_and_text in list(zip(lines, under, strict=True))[not header :]:
        for text in filter(None, line_and_text):
            if screen:
                screen.print(text, soft_wrap=True)
            else:
                print(text)
    sys.stdout.flush()


def plain(table: Table) -> list[str]:
    """Aligned lines without colour."""
    return [join(line) for line in _lay_out(table)]


def styled(table: Table, width: int | None) -> "list[Text]":
    """Coloured lines no wider than `width`, if one is given: see `_narrowed`."""
    from rich.text import Text

    table = _narrowed(table, width) if width is not None else table
    lines = []
    for line in _lay_out(table):
        text = Text.assemble(*((cell.text, cell.style) for cell in line), no_wrap=True)
        text.rstrip()
        if width is not None:
            text.truncate(max(width, 1), overflow="ellipsis")
        lines.append(text)
    return lines


def _narrowed(table: Table, width: int) -> Table:
    """The table with short cells, and without the columns that do not fit then.

    The last column may be cut to a dozen characters.
    """
    columns, widths = list(table.columns), _shown_widths(table)
    shown = list(range(len(columns)))
    if _total(widths) > width:
        rows = [[_shortened(cell) for cell in row] for row in table.rows]
        table = Table(table.columns, rows)
        widths = _shown_widths(table)
    while _total([widths[i] for i in shown]) > width:
        droppable = [i for i in shown if columns[i].drop]
        if not droppable:
            break
        shown.remove(max(droppable, key=lambda i: columns[i].drop))
    return Table(tuple(columns[i] for i in shown), [[row[i] for i in shown] for row in table.rows])


def _shown_widths(table: Table) -> list[int]:
    *widths, last = _widths(table)
    return [*widths, min(last, 12)]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _shortened(cell: Cell | str) -> Cell | str:
    return Cell(cell.short, cell.style) if isinstance(cell, Cell) and cell.short else cell


def _widths(table: Table) -> list[int]:
    texts = [[column.name for column in table.columns]]
    texts += [[_cell(value).text for value in row] for row in table.rows]
    return [max(map(len, column)) for column in zip(*texts, strict=True)]


def _lay_out(table: Table) -> list[list[Cell]]:
    widths = _widths(table)
    heading = [Cell(column.name, "bold") for column in table.columns]
    lines = []
    for row in (heading, *table.rows):
        line = []
        for value, column, width in zip(row, table.columns, widths, strict=True):
            cell = _cell(value)
            text = cell.text.rjust(width) if column.right else cell.text.ljust(width)
            line += [Cell(text, cell.style), Cell(GAP)]
        lines.append(line[:-1])
    return lines


def _cell(value: Cell | str) -> Cell:
    cell = Cell(value) if isinstance(value, str) else value
    return Cell(one_line(cell.text) or "-", cell.style)


def status(text: str) -> Cell:
    """A status in its colour."""
    return Cell(text, next((style for style, of in STATUS_STYLES.items() if text in of), ""))


def clean(text: str) -> str:
    """Text without control characters, line breaks and tabs aside."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str) -> str:
    """Text on one line, without control characters."""
    return _LINE_BREAKS.sub(" ", clean(text.replace("\r\n", "\n"))).strip()


def short_id(identifier: str) -> str:
    """The short form of an id. Ids start with their time of creation; their ends differ."""
    return f"…{identifier[-8:]}" if len(identifier) == 36 else identifier


def id_cell(identifier: str) -> Cell:
    """An id, or its short form where the terminal is narrow."""
    return Cell(identifier, short=short_id(identifier))


def age(since_ms: float | None, now_ms: float | None = None) -> str:
    """How long ago, in two units at most: `42s`, `3m20s`, `5h12m`, `9d`; `-` if it never was."""
    if not since_ms:
        return "-"
    now = time.time() * 1000 if now_ms is None else now_ms
    return duration(max(now - since_ms, 0) / 1000)


def duration(seconds: float) -> str:
    """A time span for people."""
    total = int(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3_600:
        return f"{total // 60}m{total % 60:02}s" if total < 600 else f"{total // 60}m"
    if total < 86_400:
        return f"{total // 3_600}h{total % 3_600 // 60:02}m"
    return f"{total // 86_400}d"


def timestamp(ms: float) -> str:
    """A time of day, with its date where that is not today; local time."""
    if not ms:
        return "-"
    try:
        local, today = time.localtime(ms / 1000), time.localtime()
    except (OverflowError, OSError, ValueError):
        return "?"
    form = "%H:%M:%S" if local[:3] == today[:3] else "%Y-%m-%d %H:%M:%S"
    return f"{time.strftime(form, local)}.{int(ms % 1000):03}"


def count(number: int, noun: str) -> str:
    """`1 agent`, `2,000 agents`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def bar(used: int, total: int, width: int = 10) -> str:
    """A bar of what is used; anything in use shows at least one block."""
    full = 0 if total <= 0 else min(max(round(width * used / total), int(used > 0)), width)
    return "█" * full + "░" * (width - full)


def print_json(value: object) -> None:
    """One document, indented."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode(), flush=True)


def json_line(value: object) -> str:
    """A document on a line of its own."""
    return msgspec.json.encode(value).decode()
