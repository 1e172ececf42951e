"""What a worker is configured with."""

import re
from collections.abc import Mapping

from msgspec import Struct

from eventstore.language.durability import Level
from eventstore.language.pool_config import PoolConfig
from eventstore.retention import Retention
from workers.api.agent import Agent
from workers.host.processes import Process
from workers.output.levels import Levels
from workers.output.limits import OutputLimits
from workers.output.lines import Output


class HostOptions(Struct, frozen=True, kw_only=True):
    """What a supervisor passes on to its workers as it is."""

    redis_url: str
    key_prefix: str = ""
    log_dir: str = ".muster/logs"
    """Folder of this host's log files."""
    log_level: str = "info"
    """Of what agents' own code logs."""
    engine_url: str = ""
    """For `Context.engine()`."""
    owner_pid: int = 0
    """The process that the worker must not outlive; 0: none."""
    owner_start_time: int = 0
    retention: Retention = Retention()
    import_timeout_seconds: float = 60.0
    """How long the import of a role may take."""
    app_dir: str = ""
    """Folder of the users' code; empty for none."""
    durability: Level = Level.ACCEPTED
    """Of what agents save; of `archived`, what Redis has accepted."""
    durability_replicas: int = 1
    durability_timeout_seconds: float = 2.0
    report_to: str = ""
    """The name under which workers report what they measure; empty: they do not."""
    otel: bool = False
    """Whether claims, starts and agents are traced by OpenTelemetry."""
    fallback: bool = False
    """The log is a fallback's: fencing tokens of generation 0 are below all of the real log."""

    @property
    def owner(self) -> Process | None:
        return Process(self.owner_pid, self.owner_start_time) if self.owner_pid else None


class WorkerOptions(HostOptions, frozen=True, kw_only=True):
    pool_name: str
    worker_id: str
    host: str
    role: str = ""
    """That of the pool."""
    role_path: str = ""
    """Where its class is, should it not be imported yet."""
    config: PoolConfig
    config_version: str = "0:0"
    """See `Pool.config_version`."""
    exits: bool = True
    """A process of its own: it may be killed when the lease is lost or an agent is stuck."""
    capture: bool = True
    """Whether what agents print and log goes to the log files."""

    def new_output(self, roles: Mapping[str, type[Agent]]) -> Output:
        """Where what is printed and logged goes; `roles` are the classes that are imported."""
        config = self.config
        modules = [self.role_path] if self.role_path else [r.__module__ for r in roles.values()]
        return Output(
            self.log_dir,
            self.pool_name,
            self.worker_id,
            limits=OutputLimits(
                lines_per_second=config.log_lines_per_second,
                bytes_per_second=config.log_bytes_per_second,
                burst_seconds=config.log_burst_seconds,
            ),
            levels=Levels(
                own=self.log_level,
                packages=tuple({re.split("[.:]", module)[0] for module in modules}),
                by_logger=config.log_levels,
            ),
        )
