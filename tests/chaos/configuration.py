"""The configuration of the Muster under test: pools with times short enough to be waited for."""

import shutil
import tomllib
from pathlib import Path

ROLE = "tested"
IMMEDIATE = "immediate"
"""Its agents have no `start`: they are started by the claim."""
STEADY = "steady"
"""Pools of the load's agents, which behave well."""
WILD = "wild"
"""Pools of agents that misbehave."""
PROBE = "probe"
"""Where is tried out whether all works again."""
PLACED = "placed"
"""Where agents are placed, within caps, and moved together."""
POOLS = (STEADY, WILD, PLACED, PROBE)
PASSING = ("passing-1", "passing-2")
"""Pools that clients create and delete all the time."""

LEASE_SECONDS = 3.0
SUSPICION_SECONDS = 20.0
"""Workers die every few seconds here, so most agents are soon isolated and share the few workers
for such agents. None may wait for longer than healing may take."""

_SETTINGS = f"""\
lease_seconds = {LEASE_SECONDS}
renew_seconds = 0.7
loop_stall_seconds = 2.0
start_timeout_seconds = 5.0
stop_grace_seconds = 1.0
drain_seconds = 4.0
launch_seconds = 10.0
empty_worker_seconds = 5.0
restart_limit = 100
backoff_min_seconds = 0.1
backoff_max_seconds = 1.0
suspicion_window_seconds = {SUSPICION_SECONDS}
"""

CAPPED = "capped"
"""A project of which few agents may have a slot."""
FREE = ("tier", "free")
"""A label of which few may."""
_LIMITS = """\
project_caps = { capped = 2, "*" = 12 }
label_caps = { "tier=free" = 2 }
project_weights = { heavy = 3, "*" = 1 }
anti_affinity = ["kind"]
"""
LIMITS: dict[str, object] = tomllib.loads(_LIMITS)
"""What a placer heeds."""
STRATEGIES = ("spread", "pack", "affinity", "resource")

_SIZES = {
    STEADY: "agents_per_worker = 5\nmax_workers = 8\nbacklog_limit = 200\n",
    WILD: 'agents_per_worker = 3\nmax_workers = 4\nplacement = "spread"\n',
    PLACED: (
        "agents_per_worker = 4\nmax_workers = 5\nbacklog_limit = 200\n"
        f'placement = "spread"\n{_LIMITS}consolidate = "auto"\n'
        "moves_per_minute = 2\nmoves_per_agent_hour = 2\n"
    ),
    PROBE: "agents_per_worker = 5\nmax_workers = 2\n",
}


def role_of(pool: str) -> str:
    return IMMEDIATE if pool in {STEADY, PASSING[0]} else ROLE


def _settings(pool: str) -> str:
    """Agents of one pool are moved soon after it has more workers than it needs."""
    usual = "empty_worker_seconds = 5.0"
    return _SETTINGS.replace(usual, "empty_worker_seconds = 1.0") if pool == PLACED else _SETTINGS


def passing_config() -> dict[str, object]:
    """What a client asks for when it creates a pool."""
    return tomllib.loads(f"agents_per_worker = 3\nmax_workers = 2\n{_SETTINGS}")


def write(folder: Path) -> Path:
    """Write the configuration file, and the agents' modules next to it."""
    folder.mkdir()
    for name in ("agents.py", "misbehaving.py"):
        shutil.copy(Path(__file__).with_name(name), folder / f"chaos_{name}")
    roles = {ROLE: "Tested", IMMEDIATE: "Immediate"}
    lines = [f'[roles.{role}]\nagent = "chaos_agents:{name}"\n' for role, name in roles.items()]
    lines += [
        f'[pools.{pool}]\nrole = "{role_of(pool)}"\n{_SIZES[pool]}{_settings(pool)}'
        for pool in POOLS
    ]
    file = folder / "muster.toml"
    file.write_text("\n".join(lines))
    return file
