"""`--durability`: the level of durability that a command reaches before it is answered.

A level that was not reached in time is not a refusal: the command is carried out. It is printed to
standard error, and the exit code is 1, so that a script can check.
"""

import argparse
from collections import Counter
from collections.abc import Sequence

from eventstore.language.durability import Level
from muster.cli.arguments import command
from muster.cli.client.api_client import Answer

NOT_REACHED = 1


def add_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--durability",
        choices=[level.value for level in Level],
        help="the level to be reached before the answer (default: the gateway's)",
    )


def header(args: argparse.Namespace) -> dict[str, str]:
    return {"Muster-Durability": args.durability} if args.durability else {}


def pending(answer: Answer) -> str:
    """The requested level that was not reached, and why; empty if it was reached."""
    return answer.headers.get("muster-durability-pending", "")


def print_pending(name: str, levels: Sequence[str]) -> int:
    """Print what was accepted at a lower level, equal lines once; returns the exit code."""
    for text, number in Counter(filter(None, levels)).items():
        level, _, reason = text.partition("; reason=")
        times = f" ({number} times)" if number > 1 else ""
        why = reason.strip('"')
        command.print_error(name, f"accepted, but not yet {level}: {why}{times}")
    return NOT_REACHED if any(levels) else 0
