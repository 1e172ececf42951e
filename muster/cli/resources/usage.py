"""show what was used: slots, workers, agents, waiting

Shows what agents used in a span, exact to the millisecond: by pool and project unless something
else is asked for, in this month unless a span is. Months, days and hours are those of UTC, and so
are dates without a zone.

  muster usage                                           this month, by pool and project
  muster usage --month 2026-10 --by project -o csv       for a bill
  muster usage --since 24h --by pool --per hour          the last 24 hours, hour by hour
  muster usage --since 2026-01-01 --by label:team --per month
  muster usage --pool developer_pool --project demo --json
"""

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import asdict

from eventstore.language.pool_config import LABEL_NAME
from eventstore.names import similar_name
from muster.cli.arguments.command import BadInput, Subparsers, declare, print_note
from muster.cli.arguments.output import JSON, is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.arguments.values import pairs, time_ms
from muster.cli.client.api_client import BASE, GatewayClient
from muster.cli.client.names import require_known
from muster.cli.client.shapes import UsageAnswer, UsageRowAnswer
from muster.cli.resources.pace import add_watch_flags
from muster.settings.settings import abbreviate
from muster.terminal import render
from projector.store.usage_rows import Usage

PATH = f"{BASE}/usage"
PERIODS = ("hour", "day", "month")
_MONTH = re.compile(r"\d{4}-\d{2}")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}.*")
_GROUPS = {"POOL": "pool_name", "ROLE": "role_type", "PROJECT": "project_id", "LABEL": "label"}
_BY = re.compile(rf"pool|role|project|label:{LABEL_NAME}")
_WORDS = ("pool", "role", "project", "label", "all")
_COUNTS = ("AGENTS", "CLAIMS", "COLD", "RESTARTS", "FAILURES", "LOSSES")
_SECONDS = ("SLOT-S", "WORKER-S", "WAITING-S")


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "usage", run, __doc__)
    option = parser.add_argument
    option("--month", metavar="YYYY-MM", help="of this month (UTC)")
    option("--since", metavar="TIME", help="since then: 24h (ago), a date, a time (default: since"
           " the month began)")  # fmt: skip
    option("--until", metavar="TIME", help="until then, without that (default: now)")
    option("--by", metavar="NAMES", default="pool,project", help="pool, role, project, label:NAME,"
           " several with commas; `all`: one sum (default pool,project)")  # fmt: skip
    option("--per", choices=PERIODS, help="divide the span")
    option("--pool", metavar="NAME", help="of this pool only")
    option("--role", metavar="ROLE", help="of this role only")
    option("--project", metavar="ID", help="of this project only")
    option("--label", nargs=1, default=[], metavar="K=V", help="with this label only")
    add_watch_flags(parser)
    add_flags(parser, SERVICE_FLAGS, formats=(*JSON, "csv"))


def run(args: argparse.Namespace) -> int:
    if args.watch:
        from muster.cli.resources import watching  # it starts slowly

        return watching.watch(args, _show)
    return _show(args)


def _show(args: argparse.Namespace) -> int:
    label = "".join(f"{name}:{value}" for name, value in pairs(args.label, "--label").items())
    names = {
        "pool_name": args.pool,
        "role_type": args.role,
        "project_id": args.project,
        "label": label or None,
    }
    by = _grouping(args.by)
    gateway = GatewayClient(args)
    answer = gateway.get(PATH, {**names, **_span(args), "by": by or None, "per": args.per})
    if is_json(args):
        print_document(args, answer.document())
        return 0
    report = answer.read(UsageAnswer)
    if not report.rows:
        require_known(gateway, names)
    if args.output == "csv":
        _print_csv(report.rows)
    elif report.rows:
        _print_table(report)
    else:
        print_note("nothing was used")
    if report.left_out:
        print_note(f"({report.left_out:,} rows are left out: ask for one pool or project)")
    return 0


def _grouping(text: str) -> str:
    """What to group by, as the gateway takes it; empty: one sum. Raises `BadInput`."""
    names = text.split(",")
    if names == ["all"]:
        return ""
    for name in names:
        if not _BY.fullmatch(name):
            similar = similar_name(name, _WORDS)
            raise BadInput(
                f"--by: {abbreviate(name)} is none of pool, role, project and label:NAME (several"
                f" with commas; or only all){f'; did you mean `{similar}`?' if similar else ''}"
            )
    labels = [name for name in dict.fromkeys(names) if name.startswith("label:")]
    if len(labels) > 1:
        raise BadInput(f"--by: one label at a time, not {' and '.join(labels)}")
    return text


# ---- the span ----------------------------------------------------------------------------------


def _span(args: argparse.Namespace) -> dict[str, str | None]:
    """The ends, as the gateway takes them. Raises `BadInput`."""
    if args.month is None:
        return {"since": _time(args.since, "--since"), "until": _time(args.until, "--until")}
    if args.since or args.until:
        raise BadInput("--month: a month is a span already; leave out --since and --until")
    start = _month(args.month, "--month")
    end = (start + timedelta(days=32)).replace(day=1)
    return {"since": start.isoformat(), "until": end.isoformat()}


def _month(text: str, flag: str) -> datetime:
    try:
        if _MONTH.fullmatch(text):
            return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        pass
    raise BadInput(f"{flag}: {abbreviate(text)} is not a month such as 2026-11")


def _time(text: str | None, flag: str) -> str | None:
    """In ms since 1970. A month is its start; a date without a zone is of UTC."""
    if text is None:
        return None
    if _MONTH.fullmatch(text):
        return _month(text, flag).isoformat()
    if _DATE.fullmatch(text):
        try:
            then = datetime.fromisoformat(text)
        except ValueError:
            then = None
        if then is not None and then.tzinfo is None:
            text = then.replace(tzinfo=UTC).isoformat()
    return str(time_ms(text, flag, alternative="a month such as 2026-11"))


# ---- the output --------------------------------------------------------------------------------


def _print_table(report: UsageAnswer) -> None:
    """A row for each group, and their sum below if there are several."""
    several = len({row.since for row in report.rows}) > 1
    groups = {
        heading: field
        for heading, field in _GROUPS.items()
        if any(getattr(row, field) is not None for row in report.rows)
    }
    headings = [*(["SINCE"] if several else []), *groups]
    columns = [render.Column(name) for name in headings]
    columns += [
        render.Column(name, right=True, drop=drop)
        for drop, name in enumerate((*_SECONDS, *_COUNTS))
    ]
    rows = [
        [
            *([_date(row.since)] if several else []),
            *(getattr(row, field) or "" for field in groups.values()),
            *_numbers(row),
        ]
        for row in report.rows
    ]
    if len(rows) > 1 and headings:
        rows.append(["total", *[""] * (len(headings) - 1), *_numbers(report.total)])
    render.show(render.Table(tuple(columns), rows))
    print_note(f"{_date(report.since)} to {_date(report.until)}, UTC")


def _numbers(row: Usage) -> list[str]:
    seconds = (row.slot_seconds, row.worker_seconds, row.waiting_seconds)
    counts = (
        row.agents, row.claims, row.cold_starts, row.restarts, row.failures, row.losses,
    )  # fmt: skip
    shown = ["" if number is None else f"{number:,.1f}" for number in seconds]
    return [*shown, *(f"{number:,}" for number in counts)]


def _date(ms: int | None) -> str:
    """A time of UTC, without what is zero."""
    then = datetime.fromtimestamp((ms or 0) / 1000, UTC)
    whole = ms is not None and ms % 60_000 == 0
    return then.strftime("%Y-%m-%d %H:%M" if whole else "%Y-%m-%d %H:%M:%S")


def _print_csv(rows: Sequence[UsageRowAnswer]) -> None:
    """All fields of each row, with its times as dates; what is null is empty."""
    names = [
        name
        for name in UsageRowAnswer.__struct_fields__
        if name not in ("since_time", "until_time")
    ]
    first = ["since", "until", *_GROUPS.values()]
    names = [*first, *(name for name in names if name not in first)]
    writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values: dict[str, Any] = asdict(row)
        for end in ("since", "until"):
            then = values[f"{end}_time"]
            values[end] = then.isoformat() if then else ""
        writer.writerow(values)
