"""What an older version left is used by this one: data folders, and a log in Redis.

Each was the life of ten pools, recorded with what was answered at its end: agents in every status,
ended for every reason, lost, alone and parked. A test that fails here after a change says that
users could not go on with what they have. The samples are never recorded again for that.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from tests import recorded
from tests.chaos.judge import judge
from tests.conftest import MakeServer
from tests.e2e.system import System
from tests.waiting import until

API = "/api/v1"
ENDED = ("terminated", "failed")
UNCHANGED = (
    "pool_name", "role_type", "project_id", "heartbeat_interval", "max_idle_time", "labels",
    "input", "created_at",
)  # fmt: skip
ONE_SLOT = ("in the only slot", "waits for a slot")
"""Agents of a pool with one worker of one slot: either may be the first to have it again."""
ENDS = {"stopping": "requested", "waits for ten seconds": "pending-timeout"}
"""What had to end when the life ended, and why; its time is over long since."""


class Older:
    """A system on what was recorded."""

    def __init__(self, name: str, system: System, events: recorded.Events) -> None:
        self.system, self.events = system, events
        self.facts, self.killed = recorded.facts(name), name != "stopped"
        self.agents: dict[str, Any] = self.facts["agents"]

    async def see(self) -> None:
        """All that must hold of any of them."""
        await until(self.views_are_new, timeout=20)
        parked = (await self.system.get(f"{API}/parked"))["parked"]
        later = {"parked_time"}  # a field that was added since
        assert [_without(later, one) for one in parked] == self.facts["parked"]
        await self.agents_go_on()
        await self.history_is_as_it_was()
        await self.parked_agent_goes_back()
        new = (await self.system.spawn("developer_pool", max_idle_time=None))["agent_id"]
        assert (await self.system.agent(new))["status"] == "running"
        await self.system.verify()
        ids = [new, *(was["agent_id"] for was in self.agents.values())]
        views = self.system.views()
        offences = await asyncio.to_thread(
            judge, self.system.redis_url, views=views, acknowledged=ids
        )
        assert offences == []

    async def views_are_new(self) -> bool:
        """They are made again next to the old ones, which lack columns that are read now."""
        return (await self.system.call("GET", f"{API}/agents?limit=1"))[0] == 200

    async def agents_go_on(self) -> None:
        """Under their ids: what ran as the next incarnation, what waited as the same one."""
        wanted = {name: self.due(name) for name in self.agents if name not in ONE_SLOT}

        async def found() -> dict[str, Any]:
            listed = await self.system.agents("include_ended=true&limit=1000&include=input")
            return {agent["agent_id"]: agent for agent in listed}

        async def as_wanted() -> bool:
            now = await found()
            agents = {name: now[self.agents[name]["agent_id"]] for name in wanted}
            reached = {n: (a["status"], a["incarnation"]) for n, a in agents.items()}
            self.missing = {n: at for n, at in reached.items() if at != wanted[n]}
            return not self.missing

        try:
            await until(as_wanted, timeout=40)
        except AssertionError as error:
            error.add_note(f"{self.missing}; wanted {wanted}")
            raise
        await until(self.one_has_the_slot, timeout=20)
        now = await found()
        for name, was in self.agents.items():
            agent = now[was["agent_id"]]
            same = was.keys() if was["status"] in ENDED else UNCHANGED
            now_null = {k: 0 for k in same if was[k] == 0 and agent[k] is None}
            assert {k: agent[k] for k in same} | now_null == {k: was[k] for k in same}, name
            if was["alone"] and self.killed:  # one that waits for a worker of its own is let off
                assert agent["alone"], name
            if name in ENDS:
                assert agent["reason"] == ENDS[name]

    def due(self, name: str) -> tuple[str, int]:
        """The status and incarnation that an agent comes to."""
        was = self.agents[name]
        if was["status"] in ENDED or name == "parked":
            return was["status"], was["incarnation"]
        if name in ENDS:
            return "terminated", was["incarnation"]
        return "running", was["incarnation"] + 1

    async def one_has_the_slot(self) -> bool:
        two = [await self.system.agent(self.agents[name]["agent_id"]) for name in ONE_SLOT]
        return sorted(agent["status"] for agent in two) == ["pending", "running"]

    async def history_is_as_it_was(self) -> None:
        for path, answer in self.facts["as of then"].items():
            lists = f"{path}&include=input" if "agents" in answer else path
            assert without_added(await self.system.get(lists), answer) == answer
        followed = await self.follow()
        assert {at: followed[at] for at in self.events} == self.events
        archived = recorded.archived(self.system.data / "views.db")
        assert {at: archived[at] for at in self.events} == self.events
        assert len(archived) > len(self.events), "this very archive goes on"

    async def follow(self) -> recorded.Events:
        """All events from the beginning, until each that was recorded has come."""
        followed: recorded.Events = {}
        session = self.system._session
        assert session is not None
        async with (
            asyncio.timeout(20),
            session.get(f"{self.system.url}{API}/events?after=0") as stream,
        ):
            async for line in stream.content:
                if line.startswith(b"data: "):
                    event = json.loads(line.removeprefix(b"data: "))
                    followed[event["pool"], event["seq"]] = event
                    if self.events.keys() <= followed.keys():
                        break
        return followed

    async def parked_agent_goes_back(self) -> None:
        agent_id, pool = (self.agents["parked"][name] for name in ("agent_id", "pool_name"))
        ids = {one["source"]: one["id"] for one in self.facts["parked"]}
        assert ids["agent"] == f"{pool}:agent:{agent_id}"
        status, body = await self.system.call("POST", f"{API}/parked/{ids['agent']}/retry", {})
        assert status == 200, body
        status, body = await self.system.call("DELETE", f"{API}/parked/{ids['command']}")
        assert status == 200, body
        agent = await self.system.is_status(agent_id, "running")
        assert agent["incarnation"] == 1
        assert (await self.system.get(f"{API}/parked"))["parked"] == []


EARLIER_DEFAULTS = {"restart_limit": (5, None), "backoff_max_seconds": (60.0, 300.0)}
"""Of settings: recorded by that version, and what it counts as."""


def without_added(found: Any, recorded: Any) -> Any:
    """An answer without the fields that later versions have added, and with their defaults."""
    if isinstance(recorded, dict) and "restart_limit" in recorded:
        for name, (old, new) in EARLIER_DEFAULTS.items():
            if recorded[name] == old:
                assert found[name] == new
                found = found | {name: old}
    if isinstance(found, dict) and isinstance(recorded, dict):
        return {k: without_added(found[k], recorded[k]) for k in recorded.keys() & found.keys()}
    if found is None and recorded == 0:  # a time that never was is null since
        return 0
    if isinstance(found, list) and isinstance(recorded, list) and len(found) == len(recorded):
        return [without_added(*pair) for pair in zip(found, recorded, strict=True)]
    return found


def opened(name: str, folder: Path) -> tuple[Path, recorded.Events]:
    """A recorded folder, and the events in its archive, read from a copy."""
    (folder / "copy").mkdir()
    recorded.unpack(name, folder / "copy")
    recorded.unpack(name, folder)
    events = recorded.archived(folder / "copy/data/views.db")
    assert len(events) > 100
    return folder / "muster.toml", events


@pytest.mark.long
async def test_a_data_folder_of_stopped_processes_is_used(tmp_path: Path) -> None:
    """On a host of another name, as after a reboot."""
    config, events = opened("stopped", tmp_path)
    config.write_text(config.read_text().replace('host_id = "sample-host"\n', ""))
    async with System(tmp_path, "--config", str(config)) as system:
        await Older("stopped", system, events).see()


@pytest.mark.long
async def test_a_data_folder_of_killed_processes_is_used(tmp_path: Path) -> None:
    config, events = opened("killed", tmp_path)
    async with System(tmp_path, "--config", str(config)) as system:
        await Older("killed", system, events).see()


@pytest.mark.long
async def test_a_log_continues_with_new_views(tmp_path: Path, redis_server: MakeServer) -> None:
    """It was recorded from Redis 7.0, with all processes killed; its views are built again."""
    server, keys = redis_server(), recorded.keys("log")
    recorded.load(keys, server.url)
    recorded.unpack("killed", tmp_path, "./muster.toml", "./acme.py")
    arguments = ("--config", str(tmp_path / "muster.toml"))
    async with System(tmp_path, *arguments, env={"MUSTER_REDIS_URL": server.url}) as system:
        older = Older("log", system, recorded.streamed(keys))
        spawn = older.facts["spawned with a key"]
        headers = {"Idempotency-Key": spawn["Idempotency-Key"]}
        _, again = await system.call("POST", f"{API}/agents/spawn", spawn["body"], headers=headers)
        assert again["agent_id"] == older.agents["keyed"]["agent_id"]
        await older.see()


def _without(names: set[str], found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in names}
