"""`muster top` without a gateway: signs, groups, filters, orders, and what a list costs."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from textual.app import App, ComposeResult

from muster.cli.client.shapes import AgentAnswer, AlertAnswer, PoolAnswer, WorkerAnswer
from muster.cli.events.lines import recorded_from_json
from muster.cli.top import cells, orders, panes
from muster.cli.top.detail import agent_lines, laid_out, subject_of
from muster.cli.top.model import Model, Snapshot
from muster.cli.top.rows import Rows
from muster.terminal.render import Cell

WORKER = "01936b3e-7c1f-7e60-9f52-8b0f9a1c2d30"


def agent(number: int = 0, **fields: Any) -> AgentAnswer:
    known = {"pool_name": "night", "project_id": "demo", "status": "running"}
    identity = f"01936b3e-7c1f-7e60-9f52-{number:012}"
    return AgentAnswer(agent_id=identity, process_id=WORKER, **{**known, **fields})


def worker(**fields: Any) -> WorkerAnswer:
    known = {"worker_id": WORKER, "pool_name": "night", "status": "active", "max_agents": 10}
    return WorkerAnswer(**{**known, **fields})


def pool(**fields: Any) -> PoolAnswer:
    return msgspec.convert(fields, PoolAnswer)


def joined(parts: Sequence[Cell]) -> str:
    return "".join(part.text for part in parts)


# ---- signs -------------------------------------------------------------------------------------


def test_every_state_of_a_slot_has_a_sign_of_its_own():
    agents = [
        agent(activity="busy"),
        agent(activity="idle"),
        agent(status="starting"),
        agent(status="stopping"),
        agent(alone=True),
    ]
    shown = joined(cells.slots(worker(agent_count=6), agents))
    assert shown == "■□▸▾◆?····"
    assert len(set(shown)) == 7
    assert all(sign in cells.LEGEND for sign in shown)


def test_free_slots_of_a_worker_that_gets_no_agents_are_shut():
    assert joined(cells.slots(worker(agent_count=1, cordoned="x"), [agent()])) == "□---------"
    assert joined(cells.slots(worker(status="draining"), [])) == "-" * 10
    assert joined(cells.slots(worker(max_agents=25), [])) == "·" * 20 + "+5"


@pytest.mark.parametrize("number", [0, 3])
def test_missing_data_is_shown_as_such(number):
    """The lists of agents and workers are not of the same point in time."""
    assert len(joined(cells.slots(worker(agent_count=number), [agent(n) for n in range(9)]))) == 10
    assert cells.slots(msgspec.convert({}, WorkerAnswer), []) == []
    assert cells.utilisation(0, 0).text == "░" * 10


# ---- what follows from answers -----------------------------------------------------------------


def test_alerts_are_grouped_by_kind_the_critical_first_then_the_oldest():
    alerts = (
        AlertAnswer(name="b", severity="warning", pool_name="night", since=5, message="m"),
        AlertAnswer(name="a", severity="warning", subject="x", since=7),
        AlertAnswer(name="b", severity="warning", pool_name="day", since=9, count=3),
        AlertAnswer(name="c", severity="critical", since=None),
    )
    model = Model()
    model.read_snapshot(Snapshot(alerts=alerts), stale=False)
    found = [(one.name, one.count, one.since, one.about) for one in model.troubles]
    assert found == [("c", 1, None, ""), ("b", 4, 5, "night and 1 more"), ("a", 1, 7, "x")]
    line = joined(cells.trouble_cells(model.troubles[1], 65_005))
    assert line == " !   1m05s  b (4)  night and 1 more  m"


def test_a_pool_says_what_its_agents_wait_for():
    model = Model()
    waiting = [agent(n, status="pending", reason="no-capacity: all full") for n in range(2)]
    model.read_agents([*waiting, agent(3, status="restarting", reason="crashed")], more=False)
    assert model.waits_for("night") == "no-capacity 2, crashed 1"
    assert model.waits_for("day") == ""
    assert [len(found) for found in model.by_worker.values()] == [3]


def test_since_when_the_gateway_is_silent_is_said():
    model = Model()
    assert joined(cells.connection_cells(model, 0, "")) == "connecting …"
    model.read_snapshot(Snapshot(), stale=False)
    assert joined(cells.connection_cells(model, 0, "14:03:00")) == "live 14:03:00"
    model.lose("refused")
    model.lose("still refused")
    now = (model.lost_at or 0) + 12.4
    assert joined(cells.connection_cells(model, now, "")) == " no connection since 12s "
    model.lose("no token", refused=True)
    assert joined(cells.connection_cells(model, now, "")) == " refused since 12s "
    model.read_snapshot(Snapshot(), stale=True)
    assert joined(cells.connection_cells(model, now, "")) == " the views are behind "


def test_a_filter_finds_items_with_all_words():
    agents = [agent(1, status="failed", labels={"team": "red"}), agent(2), agent(3, alone=True)]
    assert panes.matching(agents, "state:failed TEAM=red") == agents[:1]
    assert panes.matching(agents, "pool:night 000000000002") == agents[1:2]
    assert panes.matching(agents, "") == agents
    assert panes.matching([worker(cordoned="memory")], "state:cordoned memory") != []
    assert panes.matching([pool(pool_name="night")], "day") == []


# ---- orders ------------------------------------------------------------------------------------


def test_an_order_says_what_it_touches_and_asks_for_the_number_of_many():
    one = orders.terminate([agent(7, activity="busy")])
    assert (one.question, one.number) == ("Terminate agent …00000007?", "")
    assert one.touches[0] == "agent …00000007 of night, project demo, running (busy)"
    many = orders.restart([agent(n) for n in range(8)])
    assert (many.question, many.number) == ("Restart 8 agents?", "8")
    assert many.touches[5] == "… and 3 more"
    assert (
        "4 agents will be stopped in good order"
        in orders.drain([worker(agent_count=4)]).touches[-1]
    )


def test_cordon_and_pause_are_undone_by_the_same_key():
    assert orders.cordon([worker()]).calls[0].path.endswith("/cordon")
    assert orders.cordon([worker(cordoned="x")]).calls[0].path.endswith("/uncordon")
    assert orders.cordon([worker(cordoned="x"), worker()]).calls[0].path.endswith("/cordon")
    open_pool = pool(pool_name="night")
    paused = pool(pool_name="night", config={"paused": "moves"})
    assert orders.pause([open_pool]).calls[0].body == {"reason": orders.REASON}
    assert orders.pause([paused]).question == "Resume pool night?"
    assert "moves" in orders.pause([paused]).touches[-1]


# ---- details -----------------------------------------------------------------------------------


def test_an_error_is_shown_with_its_stack_and_without_control_characters():
    error = {"type": "ValueError", "message": "no\x1b[2J", "traceback": "Traceback\n  at x"}
    failed = msgspec.convert({"agent_id": "a", "last_error": error}, AgentAnswer)
    lines = [text.plain for line in agent_lines(failed) for text in laid_out(line, 60)]
    assert lines[-3:] == ["  Traceback", "    at x", "  ValueError: no\N{REPLACEMENT CHARACTER}[2J"]


def test_a_long_text_goes_on_below_its_beginning():
    line = [Cell("14:03:00  "), Cell("one two three four five")]
    assert [text.plain for text in laid_out(line, 30)] == [
        "14:03:00  one two three four",
        "          five",
    ]
    assert [text.plain for text in laid_out([], 30)] == [""]


def test_an_event_leads_to_its_subject():
    raw = b'{"pool":"night","stream_id":"1-0","type":"worker.lost","subject":"w","data":{}}'
    assert subject_of(recorded_from_json(raw)) == ("worker", "w")
    assert subject_of(AlertAnswer(pool_name="night")) == ("pool", "night")
    assert subject_of(AlertAnswer(name="redis-memory")) == ("", "")


# ---- lists -------------------------------------------------------------------------------------


class OneList(App[None]):
    """Nothing but a list of agents."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Rows[AgentAnswer] = panes.agents()

    def compose(self) -> ComposeResult:
        yield self.rows

    def on_mount(self) -> None:
        self.rows.focus()


def lines(rows: Rows[Any]) -> list[str]:
    return [rows.render_line(y).text.rstrip() for y in range(rows.size.height)]


async def test_the_cursor_stays_on_its_agent_and_marks_on_theirs():
    app = OneList()
    async with app.run_test(size=(80, 24)) as pilot:
        app.rows.show([agent(n) for n in range(5)])
        await pilot.press("j", "space", "k")
        assert app.rows.current == agent(1)
        assert [one.agent_id[-1] for one in app.rows.selected] == ["1"]
        app.rows.show([agent(n) for n in (9, 8, 1, 2)])
        assert app.rows.current == agent(1)
        assert lines(app.rows)[3].startswith(">*…00000001")
        app.rows.show([agent(2)])
        assert (app.rows.current, app.rows.selected) == (agent(2), [agent(2)])
        app.rows.show([])
        await pilot.press("enter", "space", "j", "G", "pageup")
        assert (app.rows.current is None, app.rows.selected) == (True, [])
        assert "no agents" in lines(app.rows)[1]


async def test_columns_are_dropped_where_the_width_is_short_and_the_order_is_shown():
    app = OneList()
    async with app.run_test(size=(80, 24)) as pilot:
        app.rows.show([agent(n, status=state) for n, state in enumerate(["running", "failed"])])
        app.rows.sort_next()
        await pilot.pause()
        heading, first, *_ = lines(app.rows)
        assert heading.split() == ["AGENT", "STATE↑", "POOL", "PROJECT", "AGE", "REASON"]
        assert "failed" in first
        app.rows.reverse()
        assert "running" in lines(app.rows)[1]
        await pilot.resize_terminal(160, 24)
        assert "WORKER" in lines(app.rows)[0]
        await pilot.resize_terminal(30, 24)
        assert lines(app.rows)[0].split()[:2] == ["AGENT", "STATE↓"]


async def test_only_lines_that_can_be_seen_are_made_of_two_thousand():
    app, made = OneList(), list[AgentAnswer]()
    async with app.run_test(size=(80, 24)):
        first, *others = app.rows.columns

        def cell(item: AgentAnswer, now_ms: float) -> Any:
            made.append(item)
            return first.cell(item, now_ms)

        counted = replace(first, cell=cell)
        app.rows.columns = (counted, *others)
        app.rows.show([agent(n) for n in range(2_000)])
        lines(app.rows)
        assert 0 < len(made) < 24
