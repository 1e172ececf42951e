"""Outcomes of policies next to each other: as a table, as JSON, as a picture."""

import argparse
import sys
from collections.abc import Mapping
from math import inf
from typing import Any

from muster.cli.arguments.command import BadInput
from muster.cli.arguments.output import JSON, is_json, print_document
from muster.simulation.ideal import Ideal
from muster.simulation.outcome import Outcome
from muster.simulation.picture import draw, require_matplotlib
from muster.terminal import render

PICTURE = "png"
FORMATS = ("table", *JSON, PICTURE)
FIRST_DAYS = 14
"""Where a policy has a forecast, what comes after so many days is counted."""
FIRST = f"first_{FIRST_DAYS}_days"
WAITS = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}


def check_output(args: argparse.Namespace) -> None:
    """Raises `BadInput`, and `ConfigurationError`, where a picture cannot be written."""
    if args.output == PICTURE:
        if render.at_terminal():
            raise BadInput(
                "-o png: this is a terminal; write it to a file: … -o png > policies.png"
            )
        require_matplotlib()


def show(
    args: argparse.Namespace,
    outcomes: Mapping[str, Outcome],
    ideal: Ideal,
    real: Outcome | None,
    counted: float = -inf,
) -> None:
    """`real`: what has really happened, if that is known. `counted`: when the figures begin."""
    recorded = {} if real is None else {"recorded": real}
    everything = {**outcomes, **recorded}
    least = ideal.worker_seconds_from(counted)
    at_first = ideal.worker_seconds - least
    rows = [_row(name, outcome, least, at_first) for name, outcome in everything.items()]
    if is_json(args):
        hours: dict[str, Any] = {"worker_hours": least / 3600}
        if at_first:
            hours[FIRST] = {"worker_hours": at_first / 3600}
        found = {"policies": rows[: len(outcomes)], "ideal": hours}
        print_document(args, {**found, "recorded": rows[-1] if recorded else None})
    elif args.output == PICTURE:
        draw(sys.stdout.buffer, ideal, everything)
    else:
        _print_table(rows, least)


def _row(name: str, outcome: Outcome, least: float, at_first: float = 0.0) -> dict[str, Any]:
    """`least`: the worker-seconds that were possible; `at_first`: before what is counted."""
    first = {FIRST: _row(name, outcome.before, at_first)} if outcome.before else {}
    return {
        "name": name,
        "arrivals": outcome.arrivals,
        "wait_seconds": {key: round(outcome.wait_seconds(at), 3) for key, at in WAITS.items()},
        "worker_hours": outcome.worker_seconds / 3600,
        "slack": outcome.worker_seconds / least - 1 if least else 0.0,
        "starts": outcome.starts,
        "stops": outcome.stops,
        "moves": outcome.moves,
        "turns": outcome.turns,
        **first,
    }


def _print_table(rows: list[dict[str, Any]], least: float) -> None:
    names = (
        "WAIT P50", "P99", "P99.9", "MAX", "WORKER-HOURS", "SLACK", "STARTS", "STOPS", "MOVES",
        "TURNS",
    )  # fmt: skip
    columns = (render.Column("POLICY"), *(render.Column(name, right=True) for name in names))
    cells = []
    for row in rows:
        cells.append(_cells(row["name"], row))
        if FIRST in row:
            cells.append(_cells(f"{row['name']}, first {FIRST_DAYS} days", row[FIRST]))
    render.show(render.Table(columns, cells))
    arrivals, hours = rows[0]["arrivals"], f"{least / 3600:,.2f} worker-hours"
    print(f"\n{arrivals:,} arrivals; {hours} are possible where all of them are known before")


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        *(f"{seconds:.1f} s" for seconds in row["wait_seconds"].values()),
        f"{row['worker_hours']:,.2f}",
        f"{row['slack']:z.1%}",
        *(f"{row[key]:,}" for key in ("starts", "stops", "moves", "turns")),
    )
