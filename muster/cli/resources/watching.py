"""`--watch`: a list that is refreshed at a terminal; in a pipe, what has changed."""

import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from muster.cli.arguments.command import CommandError
from muster.cli.client.api_client import GatewayClient
from muster.terminal import render

VOLATILE = ("last_heartbeat", "last_heartbeat_time", "loop_lag_ms")
"""A heartbeat is no change."""


def show_changes(
    fetch: Callable[[], Sequence[msgspec.Raw]],
    show: Callable[[Sequence[msgspec.Raw], bool], None],
    interval: float,
) -> NoReturn:
    """Print what has changed since the last refresh, until Ctrl-C; the first time with a header."""
    known: list[dict[str, object]] = []
    while True:
        found = fetch()
        states = [msgspec.json.decode(raw, type=dict[str, object]) for raw in found]
        for state in states:
            for name in VOLATILE:
                state.pop(name, None)
        changed = [raw for raw, state in zip(found, states, strict=True) if state not in known]
        if changed:
            show(changed, not known)
        known = states
        time.sleep(interval)


def show_live(
    gateway: GatewayClient, fetch: Callable[[], render.Table], interval: float
) -> NoReturn:
    """Refresh until Ctrl-C. Without another table, keep the last one and show a warning."""
    gateway.caller_shows_staleness = True
    screen = render.console()
    shown = render.styled(fetch(), screen.width)
    with Live(console=screen, auto_refresh=False, screen=True) as live:
        warning = gateway.stale_reason
        while True:
            height = max(screen.height - 2, 1)
            heading = Text(time.strftime("%H:%M:%S") + (f"   {warning}" if warning else ""), "dim")
            live.update(Group(heading, *shown[:height]), refresh=True)
            time.sleep(interval)
            try:
                shown, warning = render.styled(fetch(), screen.width), gateway.stale_reason
            except CommandError as error:
                warning = render.one_line(str(error))
