"""What a run is asked to do, from the command line."""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from tests.chaos.schedule import stream


class Options(Struct, frozen=True, kw_only=True):
    """One run. What was not said is drawn from the seed."""

    seed: int
    minutes: float
    faults: tuple[str, ...]
    """Empty: all that can be done here."""
    appendfsync: str
    views: str
    recovers: str
    """Who recovers a log that lost writes: `command` as an operator, or `projector` by itself."""
    keep: Path | None
    plant: str
    timeout_seconds: float
    list_faults: bool
    judge: Path | None

    @property
    def levels(self) -> tuple[str, ...]:
        """The durability levels of such a system, but for the least."""
        return ("archived", "fsynced") if self.appendfsync == "always" else ("archived",)


def parse(argv: Sequence[str]) -> Options:
    """Read the arguments; ends the process where they are wrong."""
    said = _parser().parse_args(argv)
    seed = random.randrange(1_000_000) if said.seed is None else said.seed
    drawn = stream(seed, "options")
    recovers = stream(seed, "recovers").choice(("command", "projector"))
    fsync, views = drawn.choice(("everysec", "always")), drawn.choice(("sqlite", "postgresql"))
    return Options(
        seed=seed,
        minutes=said.minutes,
        faults=tuple(name for name in said.faults.split(",") if name),
        appendfsync=said.appendfsync or fsync,
        views=said.views or views,
        recovers=said.recovers or recovers,
        keep=said.keep,
        plant=said.plant,
        timeout_seconds=said.heal_timeout,
        list_faults=said.list_faults,
        judge=said.judge,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tests/chaos/run",
        description="Runs a real Muster under load, breaks things at random, and judges its log.",
    )
    add = parser.add_argument
    add("--minutes", type=float, default=1.0, help="for how long things are broken (1)")
    add("--seed", type=int, help="what is broken when; drawn and printed if missing")
    add("--faults", default="", metavar="A,B", help="only these (all that can be done here)")
    add("--list-faults", action="store_true", help="say which there are, and end")
    add("--appendfsync", choices=("everysec", "always"), help="of Redis (by the seed)")
    add("--views", choices=("sqlite", "postgresql"), help="where the views stand (by the seed)")
    add("--recovers", choices=("command", "projector"), help="`muster recover`, or --auto-recover")
    add("--keep", type=Path, metavar="DIR", help="run in this folder, and leave it there")
    add("--judge", type=Path, metavar="DIR", help="judge what an earlier run left in a folder")
    add(
        "--plant", default="", metavar="BUG", help="run with a planted bug (tests/chaos/planted.py)"
    )
    add(
        "--heal-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="how long healing may take (60)",
    )
    return parser
