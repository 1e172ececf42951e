"""`--as-of`: lists as they were at a moment of the past, told as people say it."""

import argparse
import re
import time

from muster.cli.arguments.command import print_note
from muster.cli.arguments.times import CLOCK, time_ms
from muster.cli.client.api_client import AS_OF, Answer
from muster.cli.events.streams import CATALOGUE
from muster.terminal import render

_POSITIONS = re.compile(r"[a-z0-9_-]{0,63}(:\d+){1,2}(,[a-z0-9_-]{0,63}(:\d+){1,2})*")
_CATALOGUE = re.compile(rf"(?<![^,]){CATALOGUE}(?=:)")
"""As the command line calls it; its log has no name."""
_AGO = re.compile(r"^-\d.*$")


def add_as_of_flag(parser: argparse.ArgumentParser, default: object = None) -> None:
    # Else argparse takes `-15m` for a flag; it asks this of what looks like a negative number.
    parser._negative_number_matcher = _AGO
    parser.add_argument(
        "--as-of",
        metavar="WHEN",
        default=default,
        help="as it was then: 14:03, -15m, 2026-11-24T14:03, or after an event (POOL:SEQ)",
    )


def as_of(args: argparse.Namespace) -> str | None:
    """What the gateway is asked for; None: for now. Raises `BadInput`."""
    text: str | None = getattr(args, "as_of", None)
    if text is None:
        return None
    text = text.strip()
    if not CLOCK.fullmatch(text) and _POSITIONS.fullmatch(text):
        return _CATALOGUE.sub("", text)
    alternative = "an event (POOL:SEQ, as `muster tail` shows it)"
    return str(time_ms(text.removeprefix("-"), "--as-of", alternative=alternative))


def as_of_ms(answer: Answer) -> float:
    """The moment that an answer is of, in ms since 1970; of the past it is told."""
    at_ms = answer.headers.get(AS_OF, "").partition(",")[0]
    if not at_ms.isdecimal():
        return time.time() * 1000
    at = int(at_ms)
    print_note(f"as of {render.timestamp(at)}" if at else "as of before the first event")
    if "muster-stale" in answer.headers:
        print_note("(more may have happened until then: the archive is behind, or nobody can tell)")
    return float(at_ms)
