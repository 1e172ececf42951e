"""Handlers of signals that the worker does not use are put back when their agent is gone."""

import signal

from workers.output.lines import Owner
from workers.runtime.process_state import ProcessState


async def test_a_signal_that_two_agents_handle_is_put_back_after_the_last() -> None:
    """The first is gone before anybody looked: the handler is the second one's by then."""
    number, before = signal.SIGUSR1, signal.getsignal(signal.SIGUSR1)
    state = ProcessState(lambda _: None)
    owners = [Owner({}), Owner({})]
    for owner in owners:
        state.borrow(number, owner, signal.getsignal(number))
        signal.signal(number, lambda *_: None)
    del owners[0], owner
    state.check()
    assert signal.getsignal(number) is not before
    owners.clear()
    state.check()
    assert signal.getsignal(number) is before
