"""One agent in full: its state, its last error and its history."""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice
from urllib.parse import quote

from eventstore.language.agents import TERMINAL
from eventstore.language.events import Error
from muster.cli.arguments.command import CommandError, print_note
from muster.cli.arguments.output import is_json, print_document
from muster.cli.client.api_client import BASE, GatewayClient
from muster.cli.client.shapes import AgentAnswer, ParkedAnswer
from muster.cli.events.lines import RecordedEvent, event_cells, recorded_from_json
from muster.cli.resources.as_of import get_as_of
from muster.cli.resources.parked import PARKED_ITEMS
from muster.terminal import render

HISTORY_SECONDS = 5.0
EVENTS_SHOWN = 20
"""So many of the last events are shown where they are also explained."""
NOT_SHOWN = frozenset({"version", "epoch", "changed_at", "last_error", "save", "state_size"})
"""What the events below say better, or the error."""
LABELS = {
    "agent_id": "agent", "pool_name": "pool", "role_type": "role", "project_id": "project",
    "status": "", "parked": "", "activity": "", "reason": "", "stop": "stop requested",
    "process_id": "worker", "incarnation": "", "failures": "", "losses": "worker deaths",
    "alone": "isolated", "fencing_token": "", "labels": "", "input": "",
    "heartbeat_interval": "checked every", "max_idle_time": "ends when idle",
    "created_at": "requested", "started_at": "started", "last_heartbeat": "", "ended_at": "ended",
    "saved_at": "saved state",
}  # fmt: skip
"""What comes first, in this order, and what it is called where that is not the field's name."""


def show_agent(
    gateway: GatewayClient,
    agent_id: str,
    args: argparse.Namespace,
    explain: Callable[[], None] | None = None,
) -> int:
    """Print the agent; returns the exit code.

    `explain`: prints why it is as it is; then only the last events are printed.
    """
    answer, _ = get_as_of(gateway, f"{BASE}/{quote(agent_id)}", args)
    agent = answer.read(AgentAnswer)
    events = list(history(gateway, agent))
    parked = None if args.as_of or agent.status in TERMINAL else _parked(gateway, agent)
    if is_json(args):
        documents = [event.document() for event in events]
        print_document(args, {**answer.document(), "events": documents, "parked": parked})
        return 0
    print_facts(facts(agent, events, parked))
    if agent.last_error is not None:
        print("\nlast error:")
        for line in error_lines(agent.last_error):
            print(f"  {render.clean(line)}")
    if explain is not None:
        explain()
    print("\nevents:")
    print_line = render.line_printer()
    kept = _without_earlier_saves(events)
    shown = kept if explain is None else kept[-EVENTS_SHOWN:]
    for event in shown:
        print_line(event_cells(event, render.at_terminal()))
    if len(kept) < len(events):
        print_note(f"(earlier saves that are not shown: {len(events) - len(kept)})")
    if len(shown) < len(kept):
        earlier = render.count(len(kept) - len(shown), "earlier event")
        print_note(f"({earlier}: muster ps {agent_id})")
    if len(events) < agent.version:
        print_note(
            f"({len(events)} of {agent.version}: the others were not read within"
            f" {HISTORY_SECONDS:g} s, or are not archived)"
        )
    return 0


def print_facts(named: Sequence[tuple[str, render.Cell | str]]) -> None:
    """A line each; empty ones are left out."""
    print_line = render.line_printer()
    for name, value in named:
        cell = render.Cell(value) if isinstance(value, str) else value
        if text := render.one_line(cell.text):
            print_line([render.Cell(f"{name:<16}", "dim"), render.Cell(text, cell.style)])


def _parked(gateway: GatewayClient, agent: AgentAnswer) -> ParkedAnswer | None:
    """The reason why it is parked, if it is and the gateway knows."""
    with suppress(CommandError):
        for raw in PARKED_ITEMS.items(gateway, {"pool_name": agent.pool_name}, None):
            parked = PARKED_ITEMS.read(raw)
            if (parked.source, parked.subject) == ("agent", agent.agent_id):
                return parked
    return None


def facts(
    agent: AgentAnswer, events: Sequence[RecordedEvent], parked: ParkedAnswer | None = None
) -> list[tuple[str, render.Cell]]:
    """What is known of it, by name; empty values are left out."""
    isolated = agent.alone and agent.status not in TERMINAL
    texts = {
        "parked": f"{parked.reason} (muster parked retry|drop {parked.id})" if parked else "",
        "failures": _failures(agent),
        "losses": _deaths(agent, events),
        "alone": "until it has run well for a while: it was lost twice" if isolated else "",
        "labels": " ".join(f"{name}={value}" for name, value in agent.labels.items()),
        "heartbeat_interval": f"{agent.heartbeat_interval:g} s",
        "max_idle_time": "never" if agent.max_idle_time is None else f"{agent.max_idle_time:g} s",
        "last_heartbeat": when(agent.last_heartbeat),
        "saved_at": _state(agent),
    }
    others = dict.fromkeys(name for name in agent.__struct_fields__ if name not in NOT_SHOWN)
    found = {
        name: texts[name] if name in texts else _plain(name, getattr(agent, name))
        for name in {**LABELS, **others}
    }
    return [
        (
            LABELS.get(name) or name.replace("_", " "),
            render.status(text) if name == "status" else render.Cell(text),
        )
        for name, text in found.items()
        if text
    ]


def _plain(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_at"):
        return when(value)
    if isinstance(value, datetime):  # of a time that is shown
        return ""
    return value if isinstance(value, str) else render.json_line(value) if value else ""


def _failures(agent: AgentAnswer) -> str:
    if not agent.failures:
        return ""
    lost_worker = agent.last_error is not None and agent.last_error.type == "WorkerLost"
    with_deaths = ", including deaths of its worker while it was isolated" if lost_worker else ""
    return f"{agent.failures} within the restart window{with_deaths}"


def _state(agent: AgentAnswer) -> str:
    if not agent.saved_at:
        return ""
    return f"{agent.state_size:,} bytes, {when(agent.saved_at)}, save {agent.save}"


def _deaths(agent: AgentAnswer, events: Sequence[RecordedEvent]) -> str:
    """The losses in its history: `losses` counts only those that make it suspect, at most two."""
    number = max(sum(e.fields.get("type") == "agent.lost" for e in events), agent.losses)
    more = " or more" if len(events) < agent.version else ""
    return f"{number}{more}" if number else ""


def when(ms: int | None) -> str:
    return f"{render.timestamp(ms)} ({render.age(ms)} ago)" if ms else ""


def error_lines(error: Error) -> list[str]:
    """The traceback, which ends with the type and message of the error."""
    lines = error.traceback.rstrip().splitlines()
    summary = f"{error.type}: {error.message}"
    return lines if lines and error.type in lines[-1] else [*lines, *summary.splitlines()]


def history(gateway: GatewayClient, agent: AgentAnswer) -> Iterator[RecordedEvent]:
    """Its events, from the first, up to its version, as far as they can be read in time."""
    query = {"pool": agent.pool_name, "agent": agent.agent_id, "after": "0"}
    data = gateway.stream_events(query, seconds=HISTORY_SECONDS)
    return islice((recorded_from_json(raw) for raw in data), agent.version)


def _without_earlier_saves(events: Sequence[RecordedEvent]) -> list[RecordedEvent]:
    """Of several saves in a row only the last."""
    types = [event.fields.get("type") for event in events]
    following = [*types, None][1:]
    return [
        event
        for event, kind, later in zip(events, types, following, strict=True)
        if not kind == later == "agent.saved"
    ]
