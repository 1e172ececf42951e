"""Which changes of code are noticed, and when."""

from importlib.util import cache_from_source
from pathlib import Path

import pytest

from workers.supervisor import code_watch
from workers.supervisor.code_watch import changes, snapshot


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(code_watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(code_watch, "SETTLED_SECONDS", 0.05)
    for name in ("a.py", "acme/b.py", "acme/page.txt", ".hidden/c.py", "acme/__pycache__/d.py",
                 "env/pyvenv.cfg", "env/lib/e.py", "node_modules/f.py"):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("1")
    return tmp_path


def test_only_the_code_of_the_folder_is_watched(folder: Path) -> None:
    found = {Path(path).relative_to(folder).as_posix() for path in snapshot(str(folder))}
    assert found == {"a.py", "acme/b.py"}


async def test_files_that_are_saved_together_are_one_change(folder: Path) -> None:
    found = changes(str(folder), snapshot(str(folder)))
    for name in ("acme/b.py", "acme/new.py"):
        (folder / name).write_text("22")
    (folder / "a.py").unlink()
    assert await anext(found) == ["a.py", "acme/b.py", "acme/new.py"]
    (folder / "acme/b.py").write_text("333")
    assert await anext(found) == ["acme/b.py"]


async def test_a_file_that_still_changes_is_waited_for(folder: Path, monkeypatch) -> None:
    saved = iter(["22", "333", "4444"])

    async def sleep(_: float) -> None:
        if text := next(saved, ""):
            (folder / "a.py").write_text(text)

    known = snapshot(str(folder))
    monkeypatch.setattr("asyncio.sleep", sleep)
    found = await anext(changes(str(folder), known))
    assert (found, next(saved, "none left")) == (["a.py"], "none left")


async def test_what_was_compiled_of_a_changed_file_is_removed(folder: Path) -> None:
    """An edit of the same size within the same second would be overlooked."""
    compiled = Path(cache_from_source(str(folder / "a.py")))
    compiled.parent.mkdir(parents=True, exist_ok=True)
    compiled.touch()
    found = changes(str(folder), snapshot(str(folder)))
    (folder / "a.py").write_text("2")
    assert await anext(found) == ["a.py"]
    assert not compiled.exists()


async def test_what_cannot_be_removed_is_left(folder: Path) -> None:
    """Such as a cache that another user owns; here a folder is in the way."""
    compiled = Path(cache_from_source(str(folder / "a.py")))
    compiled.mkdir(parents=True)
    found = changes(str(folder), snapshot(str(folder)))
    (folder / "a.py").write_text("2")
    assert await anext(found) == ["a.py"]
