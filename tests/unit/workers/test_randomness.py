"""Random numbers in processes that were forked from one."""

import os
import sys
import uuid
from types import SimpleNamespace

import pytest

from workers.launch.randomness import reseed


def test_what_is_loaded_is_seeded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[str] = []
    for name in ("numpy.random", "torch"):
        fake = SimpleNamespace(seed=lambda name=name: seeded.append(name))
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(uuid, "_generate_time_safe", lambda: (b"the same".ljust(16), 0))
    reseed()
    assert seeded == ["numpy.random", "torch"]
    assert uuid.uuid1().bytes != b"the same".ljust(16)


def test_what_is_not_loaded_is_not_loaded_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("numpy.random", "torch", "uuid"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    reseed()
    assert not {"numpy.random", "torch", "uuid"} & sys.modules.keys()


def test_forks_make_different_ids_of_time() -> None:
    """The same clock and address, and in the same instants."""
    uuid.uuid1()
    read_end, write_end = os.pipe()
    pids = []
    for _ in range(4):
        if not (pid := os.fork()):
            reseed()
            os.write(write_end, b"".join(uuid.uuid1().bytes for _ in range(200)))
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        made = pipe.read()
    assert len({made[n : n + 16] for n in range(0, len(made), 16)}) == 800
