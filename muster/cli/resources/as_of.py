"""`--as-of`: state at an earlier point in time, given as a time or as a position in the log."""

import argparse
import re
import time

from muster.cli.arguments.command import print_note
from muster.cli.arguments.values import CLOCK, time_ms
from muster.cli.client.api_client import AS_OF, Answer, GatewayClient, Query
from muster.cli.events.lines import CATALOGUE
from muster.terminal import render

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
    answer = gateway.get(path, {**(query or {}), "as_of": as_of_parameter(args.as_of)})
    at_ms = answer.headers.get(AS_OF, "").partition(",")[0]
    if not at_ms.isdecimal():
        return answer, time.time() * 1000
    at = int(at_ms)
    print_note(f"as of {render.timestamp(at)}" if at else "as of before the first event")
    if "muster-stale" in answer.headers:
        print_note("(may be incomplete: the archive is behind, or it is unknown whether it is)")
    return answer, float(at)


def as_of_parameter(text: str | None) -> str | None:
    """The parameter `as_of` for the gateway; None: the present. Raises `BadInput`."""
    if text is None:
        return None
    text = text.strip()
    if not CLOCK.fullmatch(text) and _POSITIONS.fullmatch(text):
        return _CATALOGUE.sub("", text)
    alternative = "an event (POOL:SEQ, as `muster tail` shows it)"
    return str(time_ms(text.removeprefix("-"), "--as-of", alternative=alternative))
