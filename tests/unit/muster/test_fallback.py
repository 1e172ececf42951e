"""What a fallback decides without asking anybody: settings, pools, hosts, keys."""

from typing import Any

import pytest

from eventstore.errors import ConfigurationError
from eventstore.ids import new_id
from eventstore.language.pool_config import PoolConfig
from gateway.fallback import read_handover_failures
from muster.fallback.eligibility import KnownHosts, other_hosts, require_possible
from muster.fallback.last_seen import KnownPool, LastSeen, pools_to_serve
from muster.fallback.outbox import Key, created_ms
from muster.settings.settings import PoolDeclaration, load, to_environment

REDIS = {"MUSTER_REDIS_URL": "redis://r"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_it_is_set_by_flag_environment_or_file_and_off_by_default(tmp_path):
    path = tmp_path / "muster.toml"
    path.write_text("fallback = 'single-process'")
    assert load({}, {}).fallback == "single-process"
    assert load({}, {"MUSTER_FALLBACK": "none"}).fallback == "none"
    assert load({"fallback": "none"}, {"MUSTER_FALLBACK": "single-process"}).fallback == "none"
    path.write_text("fallback = ''")
    assert load({}, {}).fallback == "none"
    path.unlink()
    assert load({}, {"MUSTER_FALLBACK": ""}).fallback == "none"


def test_another_value_is_refused_by_name():
    with pytest.raises(ConfigurationError, match="MUSTER_FALLBACK: expected one of none, single"):
        load({}, {"MUSTER_FALLBACK": "memory"})


def test_it_needs_a_redis_to_fall_back_from():
    wanted = {"MUSTER_FALLBACK": "single-process"}
    require_possible(load({}, {**wanted, **REDIS}))
    with pytest.raises(ConfigurationError, match=r"MUSTER_FALLBACK: .* set MUSTER_REDIS_URL"):
        require_possible(load({}, wanted))
    with pytest.raises(ConfigurationError, match="--embedded do not go together"):
        require_possible(load({"embedded": True}, {**wanted, **REDIS}))


def test_a_child_is_told_that_it_has_none():
    """What the environment or the file says is of `muster up`, which has decided."""
    environment = to_environment(load({}, {}))
    assert environment["MUSTER_FALLBACK"] == "none"


def test_a_file_of_leftovers_that_cannot_be_read_is_no_silence(tmp_path):
    path = tmp_path / "fallback-leftovers.json"
    assert read_handover_failures(str(path)) is None
    path.write_text("{")
    found = read_handover_failures(str(path))
    assert found is not None
    assert "cannot be read" in found.left[0].description


# ---- the pools it serves ---------------------------------------------------------------------


def known(config: dict[str, Any] | None = None, *, deleted: bool = False) -> LastSeen:
    """A record of pool `p`, declared with 5 workers when it was last seen."""
    full = {**{name: getattr(PoolConfig(), name) for name in PoolConfig.__struct_fields__}}
    return LastSeen(
        pools={"p": KnownPool("coder", {**full, **(config or {})}, deleted)},
        declared={"p": PoolDeclaration("coder", {"max_workers": 5})},
    )


def test_what_was_changed_live_stands_until_the_file_changes():
    declared = {"p": PoolDeclaration("coder", {"max_workers": 5})}
    served = pools_to_serve(known({"max_workers": 7}), declared)
    assert served["p"].config().max_workers == 7
    declared = {"p": PoolDeclaration("coder", {"max_workers": 6})}
    served = pools_to_serve(known({"max_workers": 7, "backlog_limit": 3}), declared)
    assert (served["p"].config().max_workers, served["p"].config().backlog_limit) == (6, 3)


def test_a_pool_that_was_deleted_live_is_not_brought_back_by_the_same_file():
    declared = {"p": PoolDeclaration("coder", {"max_workers": 5})}
    assert pools_to_serve(known(deleted=True), declared) == {}
    declared = {"p": PoolDeclaration("coder", {"max_workers": 6})}
    assert sorted(pools_to_serve(known(deleted=True), declared)) == ["p"]


def test_pools_made_live_are_served_and_so_are_those_of_a_first_start():
    assert sorted(pools_to_serve(known(), {})) == ["p"]
    declared = {"q": PoolDeclaration("coder", {})}
    assert pools_to_serve(LastSeen(), declared) == declared


def test_a_setting_of_a_newer_version_is_passed_over():
    served = pools_to_serve(known({"from_the_future": 1, "max_workers": 7}), {})
    assert served["p"].config().max_workers == 7


# ---- other hosts, keys -----------------------------------------------------------------------


def test_a_host_under_an_earlier_name_of_its_own_is_no_other():
    """After a reboot a host has another name; the one that crashed never left."""
    seen = KnownHosts((1, 9), {"h-before": "h", "h-now": "h", "g": "gauss"}, "this data folder")
    assert other_hosts({"h-before", "h-now"}, seen) == ["g (gauss)"]


def test_a_clients_key_is_told_from_one_of_the_gateways_own():
    agent_id = new_id()
    made = created_ms(agent_id)
    day = Key(operation_id="key:1", digest="d", expires_ms=made + 86_400_000)
    minutes = Key(operation_id="key:2", digest="d", expires_ms=made + 600_000)
    assert (day.from_client(agent_id), minutes.from_client(agent_id)) == (True, False)
