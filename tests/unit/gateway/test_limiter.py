"""How many connections a gateway takes, by what its system allows."""

import resource

import pytest

from gateway.options import Limits
from gateway.wire.limiter import connection_capacity


@pytest.mark.parametrize("error", [ValueError, PermissionError])
def test_where_no_more_open_files_are_allowed_there_are_fewer_connections(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """As on macOS above the system's own maximum, and in some containers."""

    def refuse(*_: object) -> None:
        raise error("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert connection_capacity(Limits()) == (1024 - 256 - 256, 256)
