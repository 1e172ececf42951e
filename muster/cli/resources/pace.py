"""When a watched state is read again: soon after an event, and at the latest after an interval.

At a terminal `q` ends the watch, as Ctrl-C does anywhere.
"""

import argparse
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from eventstore.errors import MusterError
from muster.cli.client.api_client import GatewayClient

SHORTEST_SECONDS: Final = 0.5
"""Between two refreshes, however many events come."""
STREAM_SECONDS: Final = 3600.0
"""How long one stream of events is read."""
RETRY_SECONDS: Final = 5.0
QUIT: Final = (b"q", b"Q")


def add_watch_flags(parser: argparse.ArgumentParser) -> None:
    """For commands that show one thing."""
    parser.add_argument("-w", "--watch", action="store_true", help="refresh it, at a terminal;"
                        " q ends that")  # fmt: skip
    parser.add_argument("--interval", default="2", metavar="S", help="seconds between refreshes"
                        " where no event comes")  # fmt: skip


class Pace:
    """Waits between refreshes. Without the right to events, only the interval counts."""

    def __init__(self, gateway: GatewayClient, interval: float) -> None:
        self._gateway, self._interval = gateway, interval
        self._shortest = min(SHORTEST_SECONDS, interval)
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        threading.Thread(target=self._follow, daemon=True).start()

    def wait(self) -> bool:
        """Wait until it is time to refresh; False: `q` was pressed."""
        started, keys = time.monotonic(), self._keys()
        sources = [self._woken, *keys]
        while (left := self._interval - (time.monotonic() - started)) > 0:
            ready, _, _ = select.select(sources, [], [], left)
            if keys and keys[0] in ready:
                typed = os.read(keys[0], 1)
                if typed in QUIT:
                    return False
                if not typed:  # the end of standard input
                    sources = [self._woken]
            if self._woken in ready:
                return self._rest(started, keys)
        return True

    def _rest(self, started: float, keys: list[int]) -> bool:
        """Events that come together count once."""
        while (left := self._shortest - (time.monotonic() - started)) > 0:
            ready, _, _ = select.select(keys, [], [], left)
            if ready and os.read(keys[0], 1) in QUIT:
                return False
        os.read(self._woken, 65_536)
        return True

    def _keys(self) -> list[int]:
        return [sys.stdin.fileno()] if is_keyboard() else []

    def _follow(self) -> None:
        while True:
            with suppress(MusterError):  # the interval remains
                for _ in self._gateway.stream_events({}, seconds=STREAM_SECONDS):
                    self._signal()
            time.sleep(RETRY_SECONDS)

    def _signal(self) -> None:
        with suppress(BlockingIOError):  # it is woken already
            os.write(self._wake, b".")


def is_keyboard() -> bool:
    """Whether keys can be read: standard input and output are a terminal."""
    try:
        return sys.stdin.isatty() and sys.stdout.isatty()
    except ValueError:  # closed
        return False


@contextmanager
def single_keys() -> Iterator[None]:
    """Let each key be read at once and not be shown. Ctrl-C stays a signal."""
    if not is_keyboard():
        yield
        return
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    tty.setcbreak(keyboard)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
