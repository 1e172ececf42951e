"""Tests of the counter: `pytest` in this folder runs them. They need no server."""

from counter.agent import Counter
from muster.testing import run


def test_it_goes_on_where_it_was_released() -> None:
    first = run(
        Counter,
        input={"seconds": 0.001},
        until=lambda agent: agent.instance.count >= 25,
        release=True,
    )
    second = run(
        Counter,
        state=first.state,
        until=lambda agent: agent.instance.count > first.instance.count,
    )
    assert second.instance.count == first.instance.count + 1
