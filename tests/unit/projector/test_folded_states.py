"""What `verify` folds: all states can be read, and only the live ones are in memory."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from eventstore.language.agents import Agent, Status
from projector.verify.reference_fold import FoldedStates
from tests.states import states

NAMES = st.sampled_from("abcd")


@given(st.lists(st.tuples(NAMES, states(Agent))))
def test_states_are_found_as_they_were_put_there(puts: list[tuple[str, Agent]]) -> None:
    folded, expected = FoldedStates(Agent), {}
    for name, agent in puts:
        folded.put(name, agent, folded.get(name))
        expected[name] = agent
    assert {name: folded.get(name) for name in folded.names()} == expected
    assert folded.live == {name: agent for name, agent in expected.items() if not agent.ended}
    assert folded.get("e") is None


def test_an_agent_that_failed_can_live_again() -> None:
    failed = Agent(agent_id="a", pool_name="p", role_type="r", project_id="x", status=Status.FAILED)
    folded = FoldedStates(Agent)
    for status in (Status.FAILED, Status.PENDING, Status.TERMINATED):
        folded.put("a", replace(failed, status=status), folded.get("a"))
    assert list(folded.names()) == ["a"]
    assert folded.live == {}
