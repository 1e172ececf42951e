"""`--watch`: what is refreshed at a terminal; of a list in a pipe, what has changed."""

import argparse
import io
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout

import msgspec
from rich.console import Group
from rich.live import Live
from rich.text import Text

from muster.cli.arguments.command import BadInput, CommandError
from muster.cli.arguments.output import is_json
from muster.cli.arguments.values import seconds
from muster.cli.client.api_client import GatewayClient
from muster.cli.resources.pace import Pace, single_keys
from muster.terminal import render

VOLATILE = ("last_heartbeat", "last_heartbeat_time", "loop_lag_ms")
"""A heartbeat is no change."""


def watch(args: argparse.Namespace, show: Callable[[argparse.Namespace], int]) -> int:
    """Refresh what a command prints, until q. Raises `BadInput` where that cannot be."""
    if getattr(args, "as_of", None):
        raise BadInput("--as-of: the past does not change; leave out --watch")
    if not render.at_terminal() or is_json(args):
        raise BadInput(
            "--watch: this is refreshed at a terminal only; `muster ps --watch` and `muster tail"
            " --follow` print what changes into a pipe, too"
        )
    interval = interval_of(args)
    return show_live(GatewayClient(args), lambda: _printed(lambda: show(args)), interval)


def interval_of(args: argparse.Namespace) -> float:
    """In seconds. Raises `BadInput`."""
    return max(seconds(args.interval, "--interval"), 0.1)


class _Screen(io.StringIO):
    """What is printed to it is for a terminal."""

    def isatty(self) -> bool:
        return True


def _printed(show: Callable[[], int]) -> list[Text]:
    """The lines that a command prints at a terminal, with its notes."""
    with redirect_stdout(_Screen()) as screen, redirect_stderr(screen):
        show()
    return list(Text.from_ansi(screen.getvalue()).split(allow_blank=True))


def show_changes(
    gateway: GatewayClient,
    fetch: Callable[[], Sequence[msgspec.Raw]],
    show: Callable[[Sequence[msgspec.Raw], bool], None],
    interval: float,
) -> int:
    """Print what has changed since the last refresh, until Ctrl-C; the first time with a header."""
    known: list[dict[str, object]] = []
    pace = Pace(gateway, interval)
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
        if not pace.wait():
            return 0


def show_live(gateway: GatewayClient, fetch: Callable[[], list[Text]], interval: float) -> int:
    """Refresh until q or Ctrl-C. Without other lines, keep the last ones and show a warning."""
    gateway.caller_shows_staleness = True
    screen = render.console()
    shown = fetch()
    pace = Pace(gateway, interval)
    # What is printed while a command runs is read by it: the screen writes to the real output.
    with single_keys(), Live(console=screen, auto_refresh=False, screen=True) as live:
        warning = gateway.stale_reason
        while True:
            height = max(screen.height - 2, 1)
            note = f"   {warning}" if warning else "   q ends this"
            live.update(Group(Text(f"{time.strftime('%H:%M:%S')}{note}", "dim"), *shown[:height]),
                        refresh=True)  # fmt: skip
            if not pace.wait():
                return 0
            try:
                shown, warning = fetch(), gateway.stale_reason
            except CommandError as error:
                warning = render.one_line(str(error))
