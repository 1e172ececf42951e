"""What all lists have in common: pages, the table, `--json` and `--as-of`.

`--as-of`: state at an earlier point in time, given as a time or as a position in the log.
"""

import argparse
import re
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar, cast

import msgspec
from msgspec import Struct

from muster.cli.arguments.command import print_note
from muster.cli.arguments.values import CLOCK, time_ms
from muster.cli.client.api_client import AS_OF, Answer, GatewayClient, Query
from muster.cli.events.lines import CATALOGUE
from muster.terminal import render

T = TypeVar("T")
_POSITIONS = re.compile(r"[a-z0-9_-]{0,63}(:\d+){1,2}(,[a-z0-9_-]{0,63}(:\d+){1,2})*")
_CATALOGUE = re.compile(rf"(?<![^,]){CATALOGUE}(?=:)")
"""The name on the command line; in positions of the gateway the name is empty."""
_AGO = re.compile(r"^-\d.*$")


def add_as_of_flag(parser: argparse.ArgumentParser, default: object = None) -> None:
    # argparse uses this private attribute to tell negative numbers from flags; else `-15m` would
    # be a flag.
    parser._negative_number_matcher = _AGO
    parser.add_argument("--as-of", metavar="WHEN", default=default, help="at an earlier time:"
                        " 14:03, -15m, 2026-11-24T14:03, or after an event (POOL:SEQ)")  # fmt: skip


def get_as_of(
    gateway: GatewayClient, path: str, args: argparse.Namespace, query: Query | None = None
) -> tuple[Answer, float]:
    """An answer, and the time it is about in ms since 1970, which is printed if it is past."""
    answer = gateway.get(path, {**(query or {}), "as_of": _as_of(args.as_of)})
    at_ms = answer.headers.get(AS_OF, "").partition(",")[0]
    if not at_ms.isdecimal():
        return answer, time.time() * 1000
    at = int(at_ms)
    print_note(f"as of {render.timestamp(at)}" if at else "as of before the first event")
    if "muster-stale" in answer.headers:
        print_note("(may be incomplete: the archive is behind, or it is unknown whether it is)")
    return answer, float(at)


def _as_of(text: str | None) -> str | None:
    """The parameter `as_of` for the gateway; None: the present. Raises `BadInput`."""
    if text is None:
        return None
    text = text.strip()
    if not CLOCK.fullmatch(text) and _POSITIONS.fullmatch(text):
        return _CATALOGUE.sub("", text)
    alternative = "an event (POOL:SEQ, as `muster tail` shows it)"
    return str(time_ms(text.removeprefix("-"), "--as-of", alternative=alternative))


def id_text(identifier: str) -> str:
    """An id as fits the output: short at a terminal."""
    return render.short_id(identifier) if render.at_terminal() else identifier


class Column(Struct, Generic[T], frozen=True):
    """A column and its cell for an item at a time in ms since 1970, which ages are relative to."""

    name: str
    cell: Callable[[T, float], render.Cell | str]
    right: bool = False
    drop: int = 0


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
    empty: str
    """The note where there is nothing to list."""

    def show(self, args: argparse.Namespace, query: Query, limit: int | None = None) -> int:
        """Print the list, at most `limit` items of it; returns the exit code."""
        gateway = GatewayClient(args)
        first, now_ms = get_as_of(gateway, self.path, args, query)
        found = list(islice(self._pages(gateway, first), limit))
        if args.json:
            render.print_json(found)
            return 0
        if found:
            render.show(self.table(map(self.read, found), now_ms))
        else:
            print_note(self.empty)
        if len(found) == limit:
            print_note(f"({limit} shown; --limit for more)")
        return 0

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

    def table(self, found: Iterable[T], now_ms: float) -> render.Table:
        columns = tuple(render.Column(one.name, one.right, one.drop) for one in self.columns)
        rows = [[column.cell(item, now_ms) for column in self.columns] for item in found]
        return render.Table(columns, rows)
