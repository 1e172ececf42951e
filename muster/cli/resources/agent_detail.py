"""One agent in full: its state, its last error and its history."""

import argparse
from collections.abc import Iterator, Sequence
from itertools import islice
from urllib.parse import quote

import msgspec

from muster.cli.arguments.command import CommandError, print_note
from muster.cli.client.api_client import BASE, PARKED, GatewayClient
from muster.cli.client.as_of import as_of, as_of_ms
from muster.cli.client.shapes import AgentAnswer, ParkedAnswer, ParkedPage
from muster.cli.events import lines as event_lines
from muster.cli.events.recorded_event import CATALOGUE, RecordedEvent
from muster.terminal import render

HISTORY_SECONDS = 5.0


def show_agent(gateway: GatewayClient, agent_id: str, args: argparse.Namespace) -> int:
    """Print the agent; returns the exit code."""
    when = as_of(args)
    answer = gateway.get(f"{BASE}/{quote(agent_id)}", {"as_of": when})
    as_of_ms(answer)
    agent = answer.read(AgentAnswer)
    events = list(history(gateway, agent))
    parked = None if when else _parked(gateway, agent)
    if args.json:
        documents = [event.document() for event in events]
        render.print_json({**answer.document(), "events": documents, "parked": parked})
        return 0
    for name, cell in facts(agent, events, parked):
        _print_fact(name, cell)
    if agent.last_error is not None:
        print("\nlast error:")
        for line in _error(agent):
            print(f"  {render.clean(line)}")
    print("\nevents:")
    print_event = event_lines.printer(as_json=False)
    for event in events:
        print_event(event)
    if len(events) < agent.version:
        print_note(
            f"({len(events)} of {agent.version}: the others were not read within"
            f" {HISTORY_SECONDS:g} s, or are not archived)"
        )
    return 0


def _parked(gateway: GatewayClient, agent: AgentAnswer) -> ParkedAnswer | None:
    """The reason why it is parked, if it is and the gateway knows."""
    if ended(agent):
        return None
    try:
        found = gateway.get(PARKED, {"pool_name": agent.pool_name}).read(ParkedPage).items
    except CommandError:
        return None
    items = (msgspec.json.decode(raw, type=ParkedAnswer) for raw in found)
    return next((p for p in items if (p.source, p.subject) == ("agent", agent.agent_id)), None)


def ended(agent: AgentAnswer) -> bool:
    return agent.status in ("terminated", "failed")


def facts(
    agent: AgentAnswer, events: Sequence[RecordedEvent], parked: ParkedAnswer | None = None
) -> list[tuple[str, render.Cell]]:
    """What is known of it, by name; empty values are left out."""
    isolated = agent.alone and not ended(agent)
    labels = " ".join(f"{name}={value}" for name, value in agent.labels.items())
    idle = "never" if agent.max_idle_time is None else f"{agent.max_idle_time:g} s"
    found = {
        "agent": agent.agent_id,
        "pool": agent.pool_name,
        "role": agent.role_type,
        "project": agent.project_id,
        "status": agent.status,
        "parked": f"{parked.reason} (muster parked retry|drop {parked.id})" if parked else "",
        "activity": agent.activity,
        "reason": agent.reason,
        "stop requested": agent.stop,
        "worker": agent.process_id,
        "incarnation": str(agent.incarnation),
        "failures": _failures(agent),
        "worker deaths": _deaths(agent, events),
        "isolated": "until it has run well for a while: it was lost twice" if isolated else "",
        "fencing token": agent.fencing_token,
        "labels": labels,
        "input": render.json_line(agent.input) if agent.input else "",
        "checked every": f"{agent.heartbeat_interval:g} s",
        "ends when idle": idle,
        "requested": _when(agent.created_at),
        "started": _when(agent.started_at),
        "last heartbeat": _when(agent.last_heartbeat),
        "ended": _when(agent.ended_at),
    }
    return [
        (name, render.status(text) if name == "status" else render.Cell(text))
        for name, text in found.items()
        if text
    ]


def _failures(agent: AgentAnswer) -> str:
    if not agent.failures:
        return ""
    lost_worker = agent.last_error is not None and agent.last_error.type == "WorkerLost"
    with_deaths = ", including deaths of its worker while it was isolated" if lost_worker else ""
    return f"{agent.failures} within the restart window{with_deaths}"


def _deaths(agent: AgentAnswer, events: Sequence[RecordedEvent]) -> str:
    """The losses in its history: `losses` counts only those that make it suspect, at most two."""
    number = max(sum(e.fields.get("type") == "agent.lost" for e in events), agent.losses)
    more = " or more" if len(events) < agent.version else ""
    return f"{number}{more}" if number else ""


def _when(ms: int) -> str:
    return f"{render.timestamp(ms)} ({render.age(ms)} ago)" if ms else ""


def _print_fact(name: str, cell: render.Cell) -> None:
    text = render.one_line(cell.text)
    if not render.at_terminal():
        print(f"{name:<16}{text}")
        return
    from rich.text import Text

    line = Text.assemble((f"{name:<16}", "dim"), (text, cell.style))
    render.console().print(line, soft_wrap=True)


def _error(agent: AgentAnswer) -> list[str]:
    assert agent.last_error is not None
    error = agent.last_error
    lines = error.traceback.rstrip().splitlines()
    summary = f"{error.type}: {error.message}"
    return lines if lines and error.type in lines[-1] else [*lines, *summary.splitlines()]


def history(gateway: GatewayClient, agent: AgentAnswer) -> Iterator[RecordedEvent]:
    """Its events, from the first, up to its version, as far as they can be read in time."""
    query = {"pool": agent.pool_name, "agent": agent.agent_id, "after": "0"}
    data = gateway.stream_events(query, seconds=HISTORY_SECONDS)
    return islice((_recorded_event(raw) for raw in data), agent.version)


def _recorded_event(raw: bytes) -> RecordedEvent:
    document = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    texts = {name: _text(value) for name, value in document.items()}
    pool, stream_id = texts.pop("pool"), texts.pop("stream_id")
    return RecordedEvent(pool or CATALOGUE, stream_id, texts)


def _text(value: msgspec.Raw) -> str:
    """A field as in the stream: text unchanged, other values as JSON."""
    text = bytes(value).decode()
    return msgspec.json.decode(value, type=str) if text.startswith('"') else text
