"""Flags of calls to the gateway, and what its answers say about them.

`--as-of`: state at an earlier point in time, given as a time or as a position in the log.
`--wait`, `--no-wait`: how long a command waits for its outcome.
`--durability`: the level of durability that a command reaches before it is answered.
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence

from msgspec import Struct

from eventstore.language.durability import Level
from muster.cli.arguments.command import print_error, print_note
from muster.cli.arguments.values import CLOCK, seconds, time_ms
from muster.cli.client.api_client import AS_OF, TIMEOUT_SECONDS, Answer
from muster.cli.events.lines import CATALOGUE
from muster.terminal import render

WAIT_SECONDS = 5.0
NOT_REACHED = 1
"""The exit code where the requested durability was not reached in time."""
_POSITIONS = re.compile(r"[a-z0-9_-]{0,63}(:\d+){1,2}(,[a-z0-9_-]{0,63}(:\d+){1,2})*")
_CATALOGUE = re.compile(rf"(?<![^,]){CATALOGUE}(?=:)")
"""The name on the command line; in positions of the gateway the name is empty."""
_AGO = re.compile(r"^-\d.*$")


def add_as_of_flag(parser: argparse.ArgumentParser, default: object = None) -> None:
    # argparse uses this private attribute to tell negative numbers from flags; else `-15m` would
    # be a flag.
    parser._negative_number_matcher = _AGO
    parser.add_argument(
        "--as-of",
        metavar="WHEN",
        default=default,
        help="at an earlier time: 14:03, -15m, 2026-11-24T14:03, or after an event (POOL:SEQ)",
    )


def as_of(args: argparse.Namespace) -> str | None:
    """The parameter `as_of` for the gateway; None: the present. Raises `BadInput`."""
    text: str | None = getattr(args, "as_of", None)
    if text is None:
        return None
    text = text.strip()
    if not CLOCK.fullmatch(text) and _POSITIONS.fullmatch(text):
        return _CATALOGUE.sub("", text)
    alternative = "an event (POOL:SEQ, as `muster tail` shows it)"
    return str(time_ms(text.removeprefix("-"), "--as-of", alternative=alternative))


def as_of_ms(answer: Answer) -> float:
    """The time that an answer is about, in ms since 1970; printed where it is in the past."""
    at_ms = answer.headers.get(AS_OF, "").partition(",")[0]
    if not at_ms.isdecimal():
        return time.time() * 1000
    at = int(at_ms)
    print_note(f"as of {render.timestamp(at)}" if at else "as of before the first event")
    if "muster-stale" in answer.headers:
        print_note("(may be incomplete: the archive is behind, or it is unknown whether it is)")
    return float(at_ms)


class CommandOptions(Struct, frozen=True):
    """How long a command waits for its outcome, and the durability that it requires, if any."""

    wait: float
    durability: str | None

    @property
    def headers(self) -> dict[str, str]:
        prefer = f"wait={int(self.wait)}" if self.wait >= 1 else "respond-async"
        level = {"Muster-Durability": self.durability} if self.durability else {}
        return {"Prefer": prefer, **level}

    @property
    def timeout_seconds(self) -> float:
        return self.wait + TIMEOUT_SECONDS


def add_wait_flags(parser: argparse.ArgumentParser, *, no_wait: str) -> None:
    """`no_wait`: the help of `--no-wait`."""
    waiting = parser.add_mutually_exclusive_group()
    waiting.add_argument(
        "--wait", metavar="S", help=f"wait at most S seconds (default {WAIT_SECONDS:g})"
    )
    waiting.add_argument("--no-wait", action="store_true", help=no_wait)


def add_durability_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--durability",
        choices=[level.value for level in Level],
        help="the level to be reached before the answer (default: the gateway's)",
    )


def command_options(args: argparse.Namespace) -> CommandOptions:
    """Raises `BadInput`."""
    wait = 0.0 if args.no_wait else seconds(args.wait or str(WAIT_SECONDS), "--wait")
    return CommandOptions(wait, args.durability)


def unreached_level(answer: Answer) -> str:
    """The requested level of durability that was not reached, and why; empty if it was."""
    return answer.headers.get("muster-durability-pending", "")


def print_unreached(name: str, levels: Sequence[str]) -> int:
    """Print what was accepted at a lower level, equal lines once; returns the exit code.

    That is not a refusal: the command is carried out. A script checks the exit code.
    """
    for text, number in Counter(filter(None, levels)).items():
        level, _, reason = text.partition("; reason=")
        times = f" ({number} times)" if number > 1 else ""
        why = reason.strip('"')
        print_error(name, f"accepted, but not yet {level}: {why}{times}")
    return NOT_REACHED if any(levels) else 0
