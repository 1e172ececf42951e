"""say why an agent, a worker or a pool is as it is

Shows what happened to an agent, a worker or a pool, and why: what it waited for, where it was
placed, why it was started again, moved or ended, and who asked; each line with its event.

  muster explain 1a2b3c4d                   an agent or a worker, by (a part of) its id
  muster explain developer_pool             a pool
  muster explain 1a2b3c4d --as-of 14:03     as it was then
"""

import argparse
from collections.abc import Iterator
from urllib.parse import quote

from muster.cli.arguments.command import BadInput, Refused, Subparsers, declare, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.cli.arguments.targets import SERVICE_FLAGS, add_flags
from muster.cli.client.api_client import BASE, GatewayClient
from muster.cli.client.names import Match, resolve
from muster.cli.client.shapes import CauseAnswer, ExplanationAnswer, LineAnswer
from muster.cli.events.lines import CATALOGUE, STYLES
from muster.cli.resources.as_of import add_as_of_flag, as_of_parameter, get_as_of
from muster.cli.resources.pace import add_watch_flags
from muster.terminal import render
from projector.store.explanations import LEFT_OUT_MAX

PATHS = {"agent": BASE, "worker": f"{BASE}/workers", "pool": f"{BASE}/pools"}
LINES_MAX = 1_000
PART_LINES = 10
"""So many of the last events are explained where more than that is shown."""
INDENT = " " * 14


def add(subparsers: Subparsers) -> None:
    parser = declare(subparsers, "explain", run, __doc__)
    parser.add_argument("name", metavar="NAME", help="a name or id, or six or more characters of"
                        " an id; agent/, worker/ or pool/ in front of it says which")  # fmt: skip
    choice = parser.add_mutually_exclusive_group().add_argument
    choice("--limit", type=int, default=20, metavar="N", help="the last N events, besides the"
           " first one (default 20)")  # fmt: skip
    choice("--all", action="store_const", const=LINES_MAX, dest="limit",
           help=f"the last {LINES_MAX:,} events")  # fmt: skip
    add_watch_flags(parser)
    add_as_of_flag(parser)
    add_flags(parser, SERVICE_FLAGS)


def run(args: argparse.Namespace) -> int:
    if args.watch:
        from muster.cli.resources import watching  # it starts slowly

        return watching.watch(args, _show)
    return _show(args)


def _show(args: argparse.Namespace) -> int:
    if not 1 <= args.limit <= LINES_MAX:
        raise BadInput(f"--limit: {args.limit} is not a number from 1 to {LINES_MAX:,}")
    gateway = GatewayClient(args)
    found = resolve(gateway, args.name, *PATHS)
    path = f"{PATHS[found.kind]}/{quote(found.name, safe='')}/explain"
    answer, _ = get_as_of(gateway, path, args, {"limit": args.limit})
    if is_json(args):
        print_document(args, answer.document())
        return 0
    explanation = answer.read(ExplanationAnswer)
    of_pool = f" of pool {explanation.pool_name}" if found.kind != "pool" else ""
    print(render.one_line(f"{explanation.kind} {explanation.name}{of_pool}"))
    print(render.one_line(f"{'then' if args.as_of else 'now'}: {explanation.now}"))
    print_line = render.line_printer()
    for at, line in enumerate(lines_of(explanation)):
        for cells in line:
            print_line(cells)
        if at == 0 and (note := left_out(explanation)):
            print_note(f"{INDENT}({note} left out; --limit N or --all shows more)")
    return 0


def print_explanation(gateway: GatewayClient, found: Match, args: argparse.Namespace) -> None:
    """The last few lines, as a part of something else; a note where it cannot be read."""
    path = f"{PATHS[found.kind]}/{quote(found.name, safe='')}/explain"
    print("\nwhy:")
    try:
        answer = gateway.get(path, {"limit": PART_LINES, "as_of": as_of_parameter(args.as_of)})
    except Refused as error:
        print_note(f"(not explained: {error})")
        return
    explanation, print_line = answer.read(ExplanationAnswer), render.line_printer()
    print(f"  {render.one_line(explanation.now)}")
    for line in lines_of(explanation):
        for cells in line:
            print_line([render.Cell("  "), *cells])
    if note := left_out(explanation):
        print_note(f"({note} left out: muster explain {found.kind}/{found.name} --all)")


def lines_of(explanation: ExplanationAnswer) -> Iterator[list[list[render.Cell]]]:
    """For each event its line, and a second one for a cause that has no line of its own."""
    shown = {line.event for line in explanation.lines}
    for line in explanation.lines:
        cause = line.cause
        needs_cause = cause is not None and cause.text and cause.event not in shown
        yield [_cells(line), *([_cause_cells(cause)] if cause is not None and needs_cause else [])]


def left_out(explanation: ExplanationAnswer) -> str:
    """How many events have no line; empty where all have one."""
    if not explanation.left_out:
        return ""
    more = " or more" if explanation.left_out == LEFT_OUT_MAX else ""
    return f"{render.count(explanation.left_out, 'event')}{more}"


def _cells(line: LineAnswer) -> list[render.Cell]:
    return [
        render.Cell(f"{render.timestamp(line.ts or 0)}  ", "dim"),
        render.Cell(f"{position_text(line.position):<20}  "),
        render.Cell(render.one_line(line.text), STYLES.get(line.type.partition(".")[2], "")),
    ]


def _cause_cells(cause: CauseAnswer) -> list[render.Cell]:
    text = f"because of {position_text(cause.position)}: {render.one_line(cause.text)}"
    return [render.Cell(f"{INDENT}{text}", "dim")]


def position_text(position: str) -> str:
    """The catalogue has no name in positions of the gateway."""
    return f"{CATALOGUE}{position}" if position.startswith(":") else position
