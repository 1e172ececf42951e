"""Progress of what takes long, on standard error."""

import sys
import time

REPORT_SECONDS = 5.0
"""Between two lines."""


class Progress:
    """Lines such as `read: 1,200,000 of 9,400,000 events, 410,000 a second`."""

    def __init__(self, name: str, what: str, total: int = 0) -> None:
        self._name, self._what = name, what
        self._of = f" of {total:,}" if total else ""
        self._started = self._reported = time.monotonic()

    def __call__(self, count: int) -> None:
        """`count`: so many are done."""
        now = time.monotonic()
        if now - self._reported > REPORT_SECONDS:
            self._reported = now
            rate = count / (now - self._started)
            text = f"{self._name}: {count:,}{self._of} {self._what}, {rate:,.0f} a second"
            print(text, file=sys.stderr)
