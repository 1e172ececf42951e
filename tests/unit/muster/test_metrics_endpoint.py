"""The port of `/metrics` of a supervisor or projector: waited for where another has it."""

import asyncio
import socket
from collections.abc import Iterator, Sequence

import pytest
from structlog.testing import capture_logs

from eventstore.errors import ConfigurationError
from eventstore.metrics.measures import Measures
from muster.process import metrics_endpoint
from muster.process.metrics_endpoint import MeasuredPart
from muster.settings.settings import Settings
from tests.waiting import until


class NoPart:
    """It does nothing."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


class NoMetrics:
    measures = Measures()

    async def scrape(self) -> Sequence[Measures]:
        return [self.measures]


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A socket that has a port."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        found.listen()
        yield found


def measured(taken: socket.socket) -> MeasuredPart:
    settings = Settings(metrics_port=taken.getsockname()[1])
    return MeasuredPart("supervisor", NoPart(), NoMetrics(), settings)


async def test_a_port_that_is_taken_is_waited_for_with_one_line_that_names_it(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_endpoint, "TAKEN_PAUSE_SECONDS", 0.01)
    part, port = measured(taken), taken.getsockname()[1]
    with capture_logs() as lines:
        starting = asyncio.create_task(part.start())
        await until(lambda: lines)
        assert not starting.done()
        taken.close()
        await asyncio.wait_for(starting, 10)
    assert [(one["event"], one["port"]) for one in lines] == [("metrics.port_taken", port)]
    with socket.create_connection(("127.0.0.1", port), 10):
        pass
    await part.stop()


async def test_a_port_that_stays_taken_is_refused_in_words(
    taken: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_endpoint, "TAKEN_SECONDS", 0.05)
    monkeypatch.setattr(metrics_endpoint, "TAKEN_PAUSE_SECONDS", 0.01)
    port = taken.getsockname()[1]
    words = rf"127\.0\.0\.1 port {port}: Address already in use \(also after 0\.05 s\); choose"
    with pytest.raises(ConfigurationError, match=words):
        await measured(taken).start()
