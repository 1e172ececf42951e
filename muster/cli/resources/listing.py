"""What all lists have in common: pages, the table, `--json` and `--as-of`."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct

from muster.cli.arguments.command import print_note
from muster.cli.client.api_client import Answer, GatewayClient, Query
from muster.cli.client.flags import as_of, as_of_ms
from muster.cli.client.shapes import Page
from muster.terminal import render

T = TypeVar("T")


class Column(Struct, Generic[T], frozen=True):
    """A column and its cell for an item at a time in ms since 1970, which ages are relative to."""

    name: str
    cell: Callable[[T, float], render.Cell | str]
    right: bool = False
    drop: int = 0


class Listing(Struct, Generic[T], frozen=True, kw_only=True):
    """One kind of list that the gateway answers, and how it is shown."""

    path: str
    page: type[Page]
    item: type[T]
    columns: tuple[Column[T], ...]
    empty: str
    """The note where there is nothing to list."""

    def show(
        self,
        gateway: GatewayClient,
        args: argparse.Namespace,
        query: Query,
        limit: int | None = None,
    ) -> int:
        """Print the list, at most `limit` items of it; returns the exit code."""
        first = gateway.get(self.path, {**query, "as_of": as_of(args)})
        now_ms = as_of_ms(first)
        found = list(islice(self._pages(gateway, first), limit))
        if args.json:
            render.print_json(found)
            return 0
        if found:
            render.show(self.table([self.read(raw) for raw in found], now_ms))
        else:
            print_note(self.empty)
        if len(found) == limit:
            print_note(f"({limit} shown; --limit for more)")
        return 0

    def items(self, gateway: GatewayClient, query: Query, limit: int) -> Iterator[msgspec.Raw]:
        """At most `limit` items, as the gateway answers them page by page."""
        return islice(self._pages(gateway, gateway.get(self.path, query)), limit)

    def _pages(self, gateway: GatewayClient, first: Answer) -> Iterator[msgspec.Raw]:
        page = first.read(self.page)
        yield from page.items
        while page.next and page.items:
            page = gateway.follow(page.next).read(self.page)
            yield from page.items

    def read(self, raw: msgspec.Raw) -> T:
        return msgspec.json.decode(raw, type=self.item)

    def table(self, found: Sequence[T], now_ms: float) -> render.Table:
        columns = tuple(render.Column(one.name, one.right, one.drop) for one in self.columns)
        rows = [[column.cell(item, now_ms) for column in self.columns] for item in found]
        return render.Table(columns, rows)
