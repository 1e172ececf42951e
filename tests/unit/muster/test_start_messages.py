"""What `muster up` says before it has started anything."""

from pathlib import Path

import pytest

from eventstore.embedded import directory
from muster.settings.settings import Settings
from muster.up.messages import report_other_supervisor
from workers.host.lock import HostLock


async def test_another_supervisor_of_this_host_is_reported_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ours waits for half a minute, in silence otherwise."""
    settings = Settings(host_id="h", redis_url=f"redis://{tmp_path}")
    report_other_supervisor(settings)
    assert capsys.readouterr().out == ""
    other = HostLock("h", settings.redis_url, "")
    await other.acquire(0.0)
    report_other_supervisor(settings)
    other.release()
    assert "this host already has one for this Redis" in capsys.readouterr().out


def test_a_servers_log_is_shown_without_its_banner(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_text("1:M * oO0OoO0OoO0Oo Valkey is starting oO0OoO0OoO0Oo\n1:M # it failed\n")
    assert directory.log_tail(log) == "1:M # it failed"


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert directory.disk_full(tmp_path) == ""
    monkeypatch.setattr(directory, "DISK_FULL_BYTES", 2**62)
    assert directory.disk_full(tmp_path) == f"the disk is full: free some for {tmp_path}"
