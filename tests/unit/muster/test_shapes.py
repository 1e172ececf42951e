"""The command line reads the gateway's own Structs, of whatever version the gateway is."""

from typing import Any

import msgspec
import pytest
from hypothesis import given

from muster.cli.client.shapes import AgentAnswer, PoolAnswer, WorkerAnswer, tolerant
from muster.cli.resources.agent_detail import facts
from projector.store.rows import AgentRow, PoolRow, WorkerRow
from tests import later
from tests.states import states

LaterAnswer = tolerant(later.LaterRow)


@pytest.mark.parametrize(
    ("answer", "row"),
    [(AgentAnswer, AgentRow), (PoolAnswer, PoolRow), (WorkerAnswer, WorkerRow)],
)
def test_an_answer_has_the_fields_of_the_row_and_may_lack_each(
    answer: type[msgspec.Struct], row: type[msgspec.Struct]
) -> None:
    assert answer.__struct_fields__ == row.__struct_fields__
    empty = msgspec.json.decode(b"{}", type=answer)
    for field in msgspec.structs.fields(row):
        value = getattr(empty, field.name)
        assert not value
        assert value is msgspec.UNSET or msgspec.convert(value, field.type) == value


@given(states(later.LaterAgent))
def test_a_field_that_an_answer_has_more_is_ignored_by_an_older_and_read_by_a_newer_version(
    agent: later.LaterAgent,
) -> None:
    raw = msgspec.json.encode(later.LaterRow.of(agent, 1))
    read = msgspec.json.decode(raw, type=LaterAnswer)
    assert (read.temper, read.moved_at) == (agent.temper, agent.moved_ms)
    assert msgspec.json.decode(raw, type=AgentAnswer).agent_id == agent.agent_id


def test_a_field_without_words_of_its_own_is_shown_under_its_name() -> None:
    agent = later.LaterAgent(
        agent_id="a", pool_name="p", role_type="r", project_id="x", names={"a": "b"}, moved_ms=0
    )
    answer: Any = later.LaterRow.of(agent, 1)
    shown = {name: cell.text for name, cell in facts(answer, [])}
    assert (shown["temper"], shown["tries"], shown["names"]) == ("calm", "3", '{"a":"b"}')
    assert "moved at" not in shown
