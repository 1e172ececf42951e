"""Refresh a table in place, at a terminal."""

import time
from collections.abc import Callable

from rich.console import Group
from rich.live import Live
from rich.text import Text

from muster.cli.arguments.command import ServiceUnreachable
from muster.terminal import render


def show_live(
    fetch: Callable[[], render.Table], interval: float, stale_reason: Callable[[], str]
) -> int:
    """Refresh until Ctrl-C. While the service does not answer, show the last table and a warning.

    `stale_reason`: why the last answer may be stale, if it may.
    """
    screen = render.console()
    shown: list[Text] = render.styled(fetch(), screen.width)
    with Live(console=screen, auto_refresh=False, screen=True) as live:
        warning = stale_reason()
        while True:
            height = max(screen.height - 2, 1)
            heading = Text(time.strftime("%H:%M:%S") + (f"   {warning}" if warning else ""), "dim")
            live.update(Group(heading, *shown[:height]), refresh=True)
            time.sleep(interval)
            try:
                shown, warning = render.styled(fetch(), screen.width), stale_reason()
            except ServiceUnreachable as error:
                warning = render.one_line(str(error))
