"""compare what was done with what other policies would have done

Compares the policies that a pool has as `shadow` with what was really done, since all of them are
tried: what the pool's leader recorded that each would decide, live, on the same load. Waits are
those that the recorded agents would have had with these workers.

  muster pools set developer_pool shadow=proactive.toml
  muster shadow developer_pool --from 1d
"""

import argparse

from muster.cli.arguments import targets
from muster.cli.arguments.command import Subparsers, declare
from muster.cli.simulation.history import recorded
from muster.cli.simulation.results import FORMATS, check_output, show
from muster.simulation.ideal import ideal_of
from muster.simulation.replayed import ReplayedPool


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "shadow", run, __doc__)
    add = parser.add_argument
    add("pool", metavar="POOL")
    add("--from", metavar="TIME", dest="since", help="from then on (default: all that is recorded)")
    add("--to", metavar="TIME", dest="until", help="until then; such as 10m, 14:03, 2026-11-24")
    flags = {name: targets.LOG_FLAGS[name] for name in ("--data-dir", "--database-url")}
    targets.add_flags(parser, flags, formats=FORMATS)


def run(args: argparse.Namespace) -> int:
    check_output(args)
    found = recorded(args, shadows=True)
    load, real = found.recording.load, found.recording.outcome
    start_seconds = found.recording.start_seconds or 0.0
    slots = found.config.agents_per_worker
    since, until = found.recording.span
    outcomes = {}
    for name, steps in found.shadows.items():
        own_slots = found.config.shadow_policies[name].slots
        pool = ReplayedPool(own_slots, start_seconds, since, until)
        outcomes[name] = pool.replay(load, steps)
    show(args, outcomes, ideal_of(load.everyone(), slots, start_seconds), real)
    return 0
