"""`--watch`: refreshed when an event comes or an interval is over, until q."""

import argparse
import os
import pty
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from muster.__main__ import main
from muster.cli.client.api_client import GatewayClient
from muster.cli.resources.pace import Pace
from tests.unit.muster.gateway_stub import POOL
from tests.unit.muster.test_cli_agents import streamed
from tests.unit.muster.test_cli_explain import ANSWER, found

UNSET = argparse.Namespace(url=None, token=None, data_dir=None)


def test_an_event_ends_the_wait(gateway):
    gateway.answers["GET /api/v1/events"] = streamed("agent.claimed", "agent.started")
    started = time.monotonic()
    assert Pace(GatewayClient(UNSET), 3600).wait()
    assert time.monotonic() - started >= 0.5


def test_without_events_the_interval_ends_the_wait(gateway):
    """The stream is refused, or there is no gateway."""
    assert Pace(GatewayClient(UNSET), 0.1).wait()


@contextmanager
def keyboard(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A terminal as standard input and output; what is written to it was typed."""
    ours, theirs = pty.openpty()
    with (
        monkeypatch.context() as patch,
        os.fdopen(theirs, "r", closefd=False) as stdin,
        os.fdopen(theirs, "w", closefd=False) as stdout,
    ):
        patch.setattr("sys.stdin", stdin)
        patch.setattr("sys.stdout", stdout)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "80")
        yield ours
    os.close(theirs)
    os.close(ours)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["describe", "night"], "why:"),
        (["explain", "night"], "Requested over HTTP"),
        (["pools"], "night"),
        (["plan", "night"], "nothing to do"),
    ],
)
def test_q_ends_it(gateway, monkeypatch, words, shown):
    gateway.answers |= {
        "GET /api/v1/lookup": found("pool", "night"),
        "GET /pools": {"pools": [POOL]},
        "GET /pools/night/explain": {**ANSWER, "kind": "pool"},
        "GET /pools/night/plan": {"why": "all is well"},
        "GET /workers": {"workers": [], "next": None},
    }
    said = bytearray()

    def type_q(terminal: int) -> None:
        while shown.encode() not in said:
            said.extend(os.read(terminal, 65_536))
        os.write(terminal, b"xq")
        while b"\x1b[?1049l" not in said:  # it has left the other screen
            said.extend(os.read(terminal, 65_536))

    with keyboard(monkeypatch) as terminal:
        typing = threading.Thread(target=type_q, args=[terminal], daemon=True)
        typing.start()
        code = main([*words, "--watch", "--interval", "3600"])
        typing.join(10)
    assert (code, typing.is_alive()) == (0, False)


@pytest.mark.parametrize("words", [["describe", "night"], ["usage"], ["explain", "x", "--json"]])
def test_what_is_one_thing_is_not_watched_in_a_pipe(gateway, muster, words):
    code, out, err = muster(*words, "--watch")
    assert (code, out, gateway.requests) == (2, "", [])
    assert "--watch: this is refreshed at a terminal only" in err


def test_the_past_does_not_change(gateway, muster):
    code, _, err = muster("describe", "night", "--watch", "--as-of", "-1h")
    assert (code, "the past does not change" in err) == (2, True)
