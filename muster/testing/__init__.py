"""Run an agent class in a test: no Redis, no worker process, no plugin of pytest.

    from muster.testing import run

    def test_the_developer_says_hello():
        result = run(Developer, input={"task": 1})
        assert result.outcome == "completed"
        assert result.logged("hello", task=1)

`run` calls `start`, `run`, `check` and `stop` as a worker does, with the same time-outs and the
same outcome of what they raise. An agent that does not end by itself is stopped once
`until` is true:

    result = run(Developer, until=lambda agent: agent.touches == 3)

In an asynchronous test, and to look at an agent while it runs:

    async with running(Developer, input={"task": 1}) as agent:
        await agent.wait_until(lambda: agent.idle)
        await agent.check()
    assert agent.outcome == "requested"

A class with `save` and `restore` is stopped by `release` as a move does it, and given a `state`:

    first = run(Counter, until=lambda agent: agent.touches == 3, release=True)
    second = run(Counter, state=first.state)
"""

from muster.testing.agent import AgentFailed, DidNotEnd, TestedAgent
from muster.testing.context import RecordingContext
from muster.testing.runs import Request, run, running

__all__ = [
    "AgentFailed", "DidNotEnd", "RecordingContext", "Request", "TestedAgent", "run", "running",
]  # fmt: skip
