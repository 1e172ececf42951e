"""How states are shown: signs that differ without colour, too, bars, lines of alerts."""

import re
from collections.abc import Sequence
from typing import Final

from muster.cli.client.shapes import AgentAnswer, WorkerAnswer
from muster.cli.top.model import Model, Trouble
from muster.terminal import render
from muster.terminal.render import Cell

_ID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SLOTS_MAX: Final = 20
"""Of a worker with more slots the others are counted."""
BUSY, IDLE, STARTING, STOPPING, UNKNOWN, ISOLATED, FREE, CLOSED = "■□▸▾?◆·-"
SLOT_STYLES: Final = {
    BUSY: "green",
    IDLE: "green",
    STARTING: "cyan",
    STOPPING: "yellow",
    UNKNOWN: "red",
    ISOLATED: "magenta",
    FREE: "dim",
    CLOSED: "dim",
}
LEGEND: Final = (
    f"{BUSY} busy  {IDLE} idle  {STARTING} starting  {STOPPING} stopping  {ISOLATED} isolated"
    f"  {UNKNOWN} unknown  {FREE} free  {CLOSED} shut"
)
URGENT: Final = ("failed", "restarting", "pending", "stopping", "starting")
SEVERITIES: Final = {"critical": ("!!", "bold red"), "warning": ("! ", "yellow")}


def _shortened(found: "re.Match[str]") -> str:
    return render.short_id(found[0])


def urgency(agent: AgentAnswer) -> int:
    """Agents in trouble first; it keeps the order of the others."""
    return URGENT.index(agent.status) if agent.status in URGENT else len(URGENT)


def slot(agent: AgentAnswer) -> str:
    """The sign of an agent in a slot."""
    if agent.alone:
        return ISOLATED
    match agent.status:
        case "running":
            return BUSY if agent.activity == "busy" else IDLE
        case "starting":
            return STARTING
        case "stopping":
            return STOPPING
        case _:
            return UNKNOWN


def slots(worker: WorkerAnswer, agents: Sequence[AgentAnswer]) -> list[Cell]:
    """A cell for each slot of a worker, agents first, in the order of their ids.

    The list of agents and that of workers are not read at the same time: where they differ, the
    worker's number counts, and what has no agent is unknown.
    """
    signs = [slot(agent) for agent in agents][: max(worker.agent_count, 0)]
    signs += [UNKNOWN] * (worker.agent_count - len(signs))
    open_to_agents = worker.status == "active" and not worker.cordoned and not worker.alone
    signs += [FREE if open_to_agents else CLOSED] * (worker.max_agents - len(signs))
    shown = [Cell(sign, SLOT_STYLES[sign]) for sign in signs[:SLOTS_MAX]]
    if len(signs) > SLOTS_MAX:
        shown.append(Cell(f"+{len(signs) - SLOTS_MAX}", "dim"))
    return shown


def utilisation(used: int, total: int, width: int = 10) -> Cell:
    """A bar; its numbers are in the next column."""
    share = used / total if total else 0.0
    return Cell(render.bar(used, total, width), "yellow" if share >= 0.9 else "green")


def trouble_cells(trouble: Trouble, now_ms: float) -> list[Cell]:
    """A line about what is wrong: severity, since when, what, about whom."""
    sign, style = SEVERITIES.get(trouble.severity, ("? ", ""))
    number = f" ({trouble.count:,})" if trouble.count > 1 else ""
    message = render.one_line(trouble.message).replace(f" of pool {trouble.about}", "")
    return [
        Cell(f" {sign} ", style),
        Cell(f"{render.age(trouble.since, now_ms):>6}  ", "dim"),
        Cell(f"{trouble.name}{number}", style),
        Cell(f"  {trouble.about}  ", "bold" if trouble.about else ""),
        Cell(_ID.sub(_shortened, message)),
    ]


def summary_cells(model: Model) -> list[Cell]:
    """How many of what there are."""
    states: dict[str, int] = {}
    for counts in model.snapshot.agents.values():
        for state, number in counts.items():
            states[state] = states.get(state, 0) + number
    living = sum(number for state, number in states.items() if state != "failed")
    states["failed"] = sum(agent.status == "failed" for agent in model.agents)
    parts = [
        Cell(render.count(living, "agent"), "bold"),
        Cell(f" on {render.count(len(model.snapshot.workers), 'worker')}"),
        Cell(f" in {render.count(len(model.snapshot.pools), 'pool')}"),
    ]
    parts += [
        Cell(f", {states[state]:,} {state}", render.status(state).style)
        for state in ("pending", "restarting", "failed")
        if states.get(state)
    ]
    return parts


def connection_cells(model: Model, now: float, read_at: str) -> list[Cell]:
    """Whether what is shown is current. `now`: by the monotonic clock."""
    if model.lost_at is not None:
        silent = render.duration(now - model.lost_at)
        what = "refused" if model.refused else "no connection"
        return [Cell(f" {what} since {silent} ", "reverse bold red")]
    if not model.is_read:
        return [Cell("connecting …", "yellow")]
    if model.stale:
        return [Cell(" the views are behind ", "reverse yellow")]
    if model.snapshot.fallback:
        return [Cell(" fallback ", "reverse yellow"), Cell(f" {read_at}", "dim")]
    return [Cell("live ", "green"), Cell(read_at, "dim")]
