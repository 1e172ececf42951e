"""Forked from `muster up`, the roles are else what their commands would have started."""

import asyncio
import os
import sys
from pathlib import Path

import psutil

from tests.e2e.system import System
from tests.waiting import until

ROLES = ("projector", "supervisor", "gateway")
NO_REDIS = "redis://127.0.0.1:1"
TOKEN = "a-token-that-only-the-gateway-needs"


async def test_a_forked_role_has_a_command_a_session_and_files_of_its_own(tmp_path: Path) -> None:
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        async with System(tmp_path) as system:
            assert system.process is not None
            for name in ROLES:
                role = system.role(name)
                assert role.cmdline() == [sys.executable, "-P", "-m", "muster", name]
                assert (role.ppid(), os.getsid(role.pid)) == (system.process.pid, role.pid)
                files = Path(f"/proc/{role.pid}/fd")
                output = system.data / "logs" / f"{name}.err"
                assert {(files / number).readlink() for number in ("1", "2")} == {output}
                assert tmp_path not in {file.readlink() for file in files.iterdir()}
                shared = [line for line in role.memory_maps() if line.path == "[heap]"]
                assert sum(line.shared_dirty for line in shared) > 1_000_000
    finally:
        os.close(inherited)


async def test_those_that_wait_to_begin_have_no_credentials_and_end_with_muster_up(
    tmp_path: Path,
) -> None:
    """It is killed while it waits for its Redis."""
    system = System(tmp_path, env={"MUSTER_REDIS_URL": NO_REDIS, "MUSTER_API_TOKEN": TOKEN})
    starting = asyncio.ensure_future(system.start())
    try:
        await until(lambda: system.output.exists() and "waiting for it" in system.said())
        waiting = system.family()
        assert system.process is not None
        assert len(waiting) == len(ROLES)
        assert TOKEN.encode() in memory(system.process.pid)
        for process in waiting:
            assert TOKEN.encode() not in memory(process.pid)
            assert process.environ() == {}
        system.process.kill()
        await until(lambda: not any(alive(process) for process in waiting))
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await system.stop()


async def test_a_single_process_has_none_that_wait(tmp_path: Path) -> None:
    async with System(tmp_path, "--single-process") as system:
        assert [process.pid for process in system.family()] == [system.server().pid]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def memory(pid: int) -> bytes:
    """All that a process may write to."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as file:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            addresses, access, *_, name = [*line.split(), ""]
            if access.startswith("rw") and not name.startswith("[v"):
                start, end = (int(part, 16) for part in addresses.split("-"))
                file.seek(start)
                found.append(file.read(end - start))
    return b"".join(found)
