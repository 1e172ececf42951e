"""When the harness excuses a log that lost writes, and when it does not."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.recovering import EXCUSED_ROUNDS, Recovery

LOST = {"event": "log.lost", "pool": "p", "reason": "rolled back"}
LOST_COMMAND = {"event": "command.lost", "pool": "p", "kind": "spawn", "agent_id": "a"}
RECOVERED = {"event": "log.recovered", "pool": "p"}


class Scenario:
    """A recovery, by projectors unless said, in a folder where one role of each kind logs."""

    def __init__(self, folder: Path, appendfsync: str, recovers: str = "projector") -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        for kind in ("gateway", "projector"):
            (self.logs / f"{kind}-1.log").touch()
        options = SimpleNamespace(appendfsync=appendfsync, recovers=recovers)
        system: Any = SimpleNamespace(
            options=options, folder=folder, kinds=lambda kind: [SimpleNamespace(name=f"{kind}-1")]
        )
        self.recovery = Recovery(system)

    def round(self, *lines: dict[str, Any], torn: str = "", by: str = "projector-1") -> list[str]:
        """A round in which this role logged these lines; all offences until then."""
        with (self.logs / f"{by}.log").open("a") as log:
            log.writelines(json.dumps(line) + "\n" for line in lines)
            log.write(torn)
        self.recovery.end_round()
        return self.recovery.offences


@pytest.fixture(params=["always", "everysec"])
def scenario(request: pytest.FixtureRequest, tmp_path: Path) -> Scenario:
    return Scenario(tmp_path, request.param)


def test_a_loss_that_no_fault_excuses_is_found(scenario: Scenario) -> None:
    [found] = scenario.round(LOST, RECOVERED)
    assert "p: rolled back" in found


def test_a_loss_is_excused_only_in_the_round_that_removed_the_log(scenario: Scenario) -> None:
    scenario.recovery.expect(synced=True)
    assert scenario.round(LOST, LOST_COMMAND, RECOVERED) == []
    for _ in range(EXCUSED_ROUNDS - 1):
        assert scenario.round(LOST, RECOVERED) == []
    assert scenario.recovery.named == {"a"}
    assert len(scenario.round(LOST, RECOVERED)) == 1


def test_an_agent_whose_end_was_lost_is_not_lost_itself(scenario: Scenario) -> None:
    """So a request for it must find it."""
    scenario.recovery.expect(synced=True)
    ends = [LOST_COMMAND | {"kind": "terminate", "agent_id": "b"}]
    ends += [LOST_COMMAND | {"kind": "agent.termination_requested", "agent_id": "c"}]
    assert scenario.round(LOST, LOST_COMMAND, *ends, RECOVERED) == []
    assert scenario.recovery.named == {"a"}


def test_a_kill_of_redis_excuses_what_it_had_not_synced(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path, "everysec")
    scenario.recovery.expect(synced=False)
    assert scenario.round(LOST, RECOVERED) == []


def test_where_redis_syncs_always_a_kill_excuses_nothing(tmp_path: Path) -> None:
    scenario = Scenario(tmp_path, "always")
    scenario.recovery.expect(synced=False)
    assert len(scenario.round(LOST, RECOVERED)) == 1


@pytest.mark.parametrize("recovers", ["projector", "command"])
def test_a_gateway_that_misses_what_it_acknowledged_without_reason_is_found(
    tmp_path: Path, recovers: str
) -> None:
    scenario = Scenario(tmp_path, "always", recovers)
    missed = {"event": "log.lost", "pool": "", "acknowledged": 3}
    scenario.recovery.expect(synced=True)
    for _ in range(EXCUSED_ROUNDS):
        assert scenario.round(missed, by="gateway-1") == []
    [found] = scenario.round(missed, by="gateway-1")
    assert "gateway-1 misses 3 commands in catalogue" in found


def test_a_partial_line_is_read_once_it_is_complete(scenario: Scenario) -> None:
    line = json.dumps(LOST)
    assert scenario.round(torn=line[:20]) == []
    assert len(scenario.round(torn=line[20:] + "\n")) == 1
    assert len(scenario.round()) == 1
