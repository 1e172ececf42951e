"""Showing a table again and again in place, at a terminal."""

import time
from collections.abc import Callable

from rich.console import Group
from rich.live import Live
from rich.text import Text

from muster.cli.arguments.command import ServiceUnreachable
from muster.terminal import render


def keep_showing(
    look: Callable[[], render.Table], interval: float, behind: Callable[[], str]
) -> int:
    """Until Ctrl-C. While the service does not answer the last table stays, and that is said.

    `behind`: why what was looked at last is not of now, if it is not.
    """
    screen = render.console()
    shown: list[Text] = render.styled(look(), screen.width)
    with Live(console=screen, auto_refresh=False, screen=True) as live:
        trouble = behind()
        while True:
            room = max(screen.height - 2, 1)
            heading = Text(time.strftime("%H:%M:%S") + (f"   {trouble}" if trouble else ""), "dim")
            live.update(Group(heading, *shown[:room]), refresh=True)
            time.sleep(interval)
            try:
                shown, trouble = render.styled(look(), screen.width), behind()
            except ServiceUnreachable as error:
                trouble = render.one_line(str(error))
