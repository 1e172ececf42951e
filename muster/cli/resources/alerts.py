"""list what needs attention

Lists the alerts that apply now, the critical ones first: what is wrong, since when, and about whom.
What to do about it is in -o wide, and in the runbook of each in docs/operations.md.

  muster alerts
  muster alerts -o wide
  muster alerts --all --pool developer_pool      also those that are over
  muster alerts --json | jq '.[] | {name, subject, action}'
"""

import argparse

from muster.cli.arguments.command import BadInput, Subparsers, declare
from muster.cli.client.api_client import BASE
from muster.cli.client.shapes import AlertAnswer
from muster.cli.resources.listing import Column, Listing, add_list_flags
from muster.terminal import render

STYLES = {"critical": "red", "warning": "yellow"}
SHOWN_MAX = 100
LIMIT_MAX = 100_000


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "alerts", run, __doc__)
    parser.add_argument("--pool", metavar="NAME", help="of this pool only")
    parser.add_argument("-a", "--all", action="store_true", help="also those that are over")
    parser.add_argument("--limit", type=int, default=SHOWN_MAX, metavar="N", help="how many are"
                        f" shown (default {SHOWN_MAX})")  # fmt: skip
    add_list_flags(parser)


def run(args: argparse.Namespace) -> int:
    if not 1 <= args.limit <= LIMIT_MAX:
        raise BadInput(f"--limit: expected 1 to {LIMIT_MAX:,}")
    query = {"pool_name": args.pool, "include_closed": "true" if args.all else None}
    return ALERTS.show(args, query, args.limit)


def _state(alert: AlertAnswer) -> render.Cell:
    if alert.closed_at:
        return render.Cell("over", "dim")
    return render.Cell(alert.severity, STYLES.get(alert.severity, ""))


def _lasted(alert: AlertAnswer, now_ms: float) -> str:
    """For how long it has applied, or did."""
    return render.age(alert.since, alert.closed_at or now_ms)


ALERTS: Listing[AlertAnswer] = Listing(
    path=f"{BASE}/monitor/alerts",
    name="alerts",
    item=AlertAnswer,
    columns=(
        Column("SEVERITY", lambda one, _: _state(one)),
        Column("ALERT", lambda one, _: one.name),
        Column("SUBJECT", lambda one, _: render.id_cell(one.subject)),
        Column("POOL", lambda one, _: one.pool_name, drop=2),
        Column("COUNT", lambda one, _: str(one.count), right=True, drop=3),
        Column(
            "SINCE",
            lambda one, _: render.timestamp(one.since) if one.since else "",
            drop=1,
            key=lambda one: one.since or 0,
        ),
        Column("FOR", _lasted, right=True, key=lambda one: -(one.since or 0)),
        Column("ID", lambda one, _: one.alert_id, wide=True),
        Column("RUNBOOK", lambda one, _: one.runbook, wide=True),
        Column("MESSAGE", lambda one, _: render.one_line(one.message)),
        Column("ACTION", lambda one, _: render.one_line(one.action), wide=True),
    ),
    identity=lambda one: one.alert_id or one.name,
    empty="no alerts",
)
