"""What all lists have in common: pages, the forms of output, sorting, watching."""

import argparse
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from eventstore.names import unknown_name
from muster.cli.arguments.command import BadInput, Refused, print_note
from muster.cli.arguments.output import LIST
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import Answer, GatewayClient, Query
from muster.cli.client.names import require_known
from muster.cli.resources.as_of import add_as_of_flag, get_as_of
from muster.terminal import render

if TYPE_CHECKING:  # it takes a while, and is for terminals only
    from rich.text import Text

T = TypeVar("T")
SORTED_MAX = 100_000
"""So many items at most are sorted before those are chosen that are shown."""
_DIGITS = re.compile(r"(\d+)")


def add_list_flags(parser: argparse.ArgumentParser, default: object = None) -> None:
    """`default` SUPPRESS: for a nested parser."""
    option = parser.add_argument
    option("--sort", metavar="COLUMN", default=default, help="sort by a column, or by a field of"
           " the JSON; --sort=-COLUMN: the largest first")  # fmt: skip
    option("--no-headers", action="store_true", default=default or False, help="only the rows")
    option("-w", "--watch", action="store_true", default=default or False,
           help="refresh the list, until q; in a pipe print what has changed")  # fmt: skip
    option("--interval", default=default or "2", metavar="S", help="seconds between refreshes"
           " where no event comes")  # fmt: skip
    add_as_of_flag(parser, default)
    add_flags(parser, SERVICE_FLAGS, default, LIST)


class Column(Struct, Generic[T], frozen=True):
    """A column and its cell for an item at a time in ms since 1970, which ages are relative to.

    `key`: what it is sorted by, where that is not its text. `wide`: it is for `-o wide` only.
    """

    name: str
    cell: Callable[[T, float], render.Cell | str]
    right: bool = False
    drop: int = 0
    key: Callable[[T], Any] | None = None
    wide: bool = False

    def sort_key(self, item: T) -> Any:
        if self.key is not None:
            return self.key(item)
        cell = self.cell(item, 0)
        return _natural(cell if isinstance(cell, str) else cell.text)


def _natural(value: object) -> list[tuple[bool, float, str]]:
    """A key that orders by the size of numbers, also of those within texts."""
    if isinstance(value, int | float):
        return [(False, float(value), "")]
    parts = _DIGITS.split("" if value is None else str(value))
    return [(not p.isdecimal(), float(p) if p.isdecimal() else 0.0, p) for p in parts if p]


class Page(Struct, frozen=True, kw_only=True):
    """Some items of a list, and the link to the next page, if any."""

    items: list[msgspec.Raw]
    next: str | None = None


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    """One kind of list that the gateway answers, and how it is shown."""

    path: str
    name: str
    """What the items are called in a page."""
    item: type[T]
    columns: tuple[Column[T], ...]
    identity: Callable[[T], str]
    """What other commands take."""
    empty: str
    """The note where there is nothing to list."""

    def show(self, args: argparse.Namespace, query: Query, limit: int | None = None) -> int:
        """Print the list, at most `limit` items of it; returns the exit code."""
        order = self._order(args.sort)
        if args.watch:
            return self._watch(args, query, limit)
        gateway = GatewayClient(args)
        first, now_ms = get_as_of(gateway, self.path, args, query)
        most = SORTED_MAX if args.sort else limit
        found = order(islice(self._pages(gateway, first), most))[:limit]
        if not found:
            require_known(gateway, query)
        if found or args.output not in (None, "wide"):
            self.print_items(found, args, now_ms, header=not args.no_headers)
        else:
            print_note(self.empty)
        if len(found) == limit:
            print_note(f"({limit} shown; --limit for more)")
        return 0

    def _watch(self, args: argparse.Namespace, query: Query, limit: int | None) -> int:
        """Refresh the list at a terminal; in a pipe print each item whenever it has changed."""
        from muster.cli.resources import watching  # it starts slowly

        if args.as_of:
            raise BadInput("--as-of: the past does not change; leave out --watch")
        interval = watching.interval_of(args)
        gateway, order, wide = GatewayClient(args), self._order(args.sort), args.output == "wide"

        def fetch() -> list[msgspec.Raw]:
            return order(self.items(gateway, query, SORTED_MAX if args.sort else limit))[:limit]

        if not fetch():
            require_known(gateway, query)
        if not render.at_terminal() or args.output not in (None, "wide"):
            return watching.show_changes(
                gateway,
                fetch,
                lambda found, header: self.print_items(found, args, header=header),
                interval,
            )
        screen = render.console()

        def lines() -> "list[Text]":
            return render.styled(self.table(fetch(), wide=wide), screen.width)

        return watching.show_live(gateway, lines, interval)

    def print_items(
        self,
        found: Sequence[msgspec.Raw],
        args: argparse.Namespace,
        now_ms: float | None = None,
        *,
        header: bool = True,
    ) -> None:
        """Print items in the requested form. `now_ms`: what ages are relative to."""
        match args.output:
            case "json" if not getattr(args, "watch", False):
                render.print_json(found)
            case "json" | "jsonl" | "name" as form:
                names = (self.identity(self.read(one)) for one in found)
                lines = names if form == "name" else map(render.json_line, found)
                print("".join(f"{line}\n" for line in lines), end="", flush=True)
            case form:
                table = self.table(found, now_ms, wide=form == "wide")
                render.show(table, header=header, fit=form != "wide")

    def items(
        self, gateway: GatewayClient, query: Query, limit: int | None
    ) -> Iterator[msgspec.Raw]:
        """At most `limit` items, as the gateway answers them page by page."""
        return islice(self._pages(gateway, gateway.get(self.path, query)), limit)

    def _pages(self, gateway: GatewayClient, first: Answer) -> Iterator[msgspec.Raw]:
        items = ("items", list[msgspec.Raw], msgspec.field(name=self.name))
        kind = msgspec.defstruct("Page", [items], bases=(Page,), frozen=True, kw_only=True)
        answer: Answer | None = first
        while answer:
            page = cast("Page", answer.read(kind))
            yield from page.items
            answer = gateway.get(page.next) if page.next and page.items else None

    def read(self, raw: msgspec.Raw) -> T:
        return msgspec.json.decode(raw, type=self.item)

    def table(
        self, raw: Iterable[msgspec.Raw], now_ms: float | None = None, *, wide: bool = False
    ) -> render.Table:
        found, now = map(self.read, raw), time.time() * 1000 if now_ms is None else now_ms
        shown = [column for column in self.columns if wide or not column.wide]
        columns = tuple(render.Column(one.name, one.right, one.drop) for one in shown)
        return render.Table(columns, [[one.cell(item, now) for one in shown] for item in found])

    def _order(self, sort: str | None) -> Callable[[Iterable[msgspec.Raw]], list[msgspec.Raw]]:
        """Sorts by a column or a field. Raises `Refused` if there is neither of that name."""
        if sort is None:
            return list
        name = sort.removeprefix("-").lower()
        columns = {column.name.lower(): column for column in self.columns}
        fields = {field.encode_name for field in msgspec.structs.fields(cast("Any", self.item))}
        if name not in columns.keys() | fields:
            raise Refused(f"--sort: {unknown_name('column', name, [*columns, *sorted(fields)])}")

        def key(raw: msgspec.Raw) -> Any:
            if name in columns:
                return columns[name].sort_key(self.read(raw))
            return _natural(msgspec.json.decode(raw, type=dict[str, Any]).get(name))

        return lambda found: sorted(found, key=key, reverse=sort.startswith("-"))
