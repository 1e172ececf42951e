"""`muster archive` on a real log and both databases."""

import json
from pathlib import Path

from muster.__main__ import main
from tests.integration.muster.test_cli_maintenance import (
    agents,
    flags,  # noqa: F401  (a fixture)
    prepare,
    wait,
)


def test_an_archive_is_exported_checked_and_imported(
    flags: list[str],  # noqa: F811
    tmp_path: Path,
    capsys,
) -> None:
    """Each answer as text and as JSON; then the views of another database are made of it."""
    folder, database = str(tmp_path / "export"), flags[-2:]
    assert main(["replay", *flags]) == 0
    capsys.readouterr()
    assert main(["archive", "export", folder, *database]) == 0
    printed = capsys.readouterr()
    first, heading, *rows = printed.out.splitlines()
    assert first.startswith(f"exported to {folder}: 4 events in 2 files, ")
    assert heading.split() == ["POOL", "GENERATION", "FIRST", "SEQ", "LAST", "SEQ"]
    assert [row.split() for row in rows] == [["catalogue", "1", "1", "1"], ["alpha", "1", "1", "3"]]
    assert "exporting alpha: 4 of 4 events" in printed.err
    assert main(["archive", "export", folder, *database, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == 0

    assert main(["archive", "check", folder]) == 0
    assert capsys.readouterr().out.startswith("intact: 4 events in 2 files\n")
    assert main(["archive", "check", folder, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["intact"], found["ranges"][1]["last_seq"]) == (True, 3)

    other = ["--database-url", f"sqlite:///{tmp_path / 'other.db'}"]
    assert main(["archive", "import", folder, *other]) == 0
    printed = capsys.readouterr()
    assert printed.out == "imported 4 events of catalogue, alpha\n"
    assert "`muster replay` puts what has ended back" in printed.err
    assert main(["archive", "import", folder, *other]) == 0
    assert capsys.readouterr().out == "imported 0 events: the archive has all of them\n"
    assert main(["replay", *flags[:-2], *other]) == 0
    assert wait(agents(other[-1])) == ["pending"] * 3


def test_what_cannot_be_exported_checked_or_imported_is_named(
    tmp_path: Path,
    capsys,
) -> None:
    views = f"sqlite:///{tmp_path / 'views.db'}"
    wait(prepare(views))
    for words, code, said in (
        (["check", str(tmp_path / "none")], 1, "no folder of an export: it has no manifest.json"),
        (["export", str(tmp_path), "--database-url", views], 1, "name a new or an empty folder"),
        (["export", "/proc/none", "--database-url", views], 1, "cannot be written: No such file"),
        (["export", "/dev/null", "--database-url", views], 1, "is a file: name a new"),
        (["export", "x", "--database-url", f"{views}.none"], 2, "there is no SQLite file"),
        ([], 2, ""),
    ):
        assert main(["archive", *words]) == code
        assert said in capsys.readouterr().err
    assert not (tmp_path / ".lock").exists()
