"""What a fallback decides without a server: settings, pools, hosts, folders."""

import pytest

from eventstore.errors import ConfigurationError
from gateway.fallback import read_handover_failures
from muster.fallback.directory import not_handed_over, retired, serving
from muster.fallback.standby import known_settings, other_hosts, require_possible
from muster.settings.environment import to_environment
from muster.settings.loading import load
from muster.settings.settings import PoolDeclaration

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


def test_a_child_process_has_no_fallback():
    """What the environment or the file says is of `muster up`, which has decided."""
    environment = to_environment(load({}, {}))
    assert environment["MUSTER_FALLBACK"] == "none"


def test_an_unreadable_file_of_what_was_not_handed_over_is_reported(tmp_path):
    path = tmp_path / "fallback-leftovers.json"
    assert read_handover_failures(str(path)) is None
    path.write_text("{")
    found = read_handover_failures(str(path))
    assert found is not None
    assert "cannot be read" in found.left[0].description


# ---- pools and hosts ---------------------------------------------------------------------------


def test_a_setting_of_a_newer_version_is_ignored():
    pool = PoolDeclaration("coder", known_settings({"from_the_future": 1, "max_workers": 7}))
    assert pool.config().max_workers == 7


def test_a_host_under_an_earlier_name_of_its_own_is_no_other():
    """After a reboot a host has another name; the one that crashed never left."""
    hosts = {"h-before": "h", "h-now": "h", "g": "gauss"}
    assert other_hosts({"h-before", "h-now"}, hosts) == ["g (gauss)"]


# ---- folders -----------------------------------------------------------------------------------


def test_a_retired_fallback_is_never_served_again(tmp_path):
    """The next one is another log, and both wait to be handed over, the oldest first."""
    first = serving(tmp_path)
    identity = first.open("redis://r", "it did not answer")
    assert serving(tmp_path).open("redis://r", "again") == identity
    first.retire()
    assert serving(tmp_path).open("redis://r", "again").log_id != identity.log_id
    assert retired(tmp_path)[0].identity() == identity
    waiting = [folder.identity().log_id for folder in not_handed_over(tmp_path)]
    assert waiting == [identity.log_id, serving(tmp_path).identity().log_id]


def test_folders_of_one_second_do_not_replace_each_other(tmp_path):
    for _ in range(3):
        folder = serving(tmp_path)
        folder.open("redis://r", "it did not answer")
        folder.retire()
    for folder in retired(tmp_path):
        folder.rename(folder.done_path())
    assert not_handed_over(tmp_path) == []
    assert len(list(tmp_path.glob("fallback-*/identity.json"))) == 3
