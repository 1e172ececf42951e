"""The packages import each other only in the agreed direction; the check itself is sound."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = runpy.run_path(str(ROOT / ".ci" / "imports.py"))


def test_no_import_goes_the_wrong_way():
    """`eventstore` stays free of the rest, and nothing leans on the command line."""
    assert CHECK["violations"](ROOT) == []


@pytest.mark.parametrize(
    ("package", "source", "expected"),
    [
        ("eventstore", "import redis", []),
        ("eventstore", "from eventstore.keys import events", []),
        ("eventstore", "import workers.slots", ["workers.slots"]),
        ("workers", "from projector import views", ["projector.views"]),
        ("gateway", "from projector import queries", []),
        ("gateway", "from projector.queries.pools import pool", []),
        ("gateway", "import projector", ["projector"]),
        ("gateway", "from projector.queries_old import pool", ["projector.queries_old.pool"]),
        ("projector", "def f():\n    import muster", ["muster"]),
        ("muster", "import gateway.app, tests", ["tests"]),
        ("tests.chaos.judging", "from tests.chaos.judging.entries import Entry", []),
        ("tests.chaos.judging", "from tests.chaos import proxy", ["tests.chaos.proxy"]),
        ("tests.chaos.judging", "import eventstore", ["eventstore"]),
    ],
)
def test_the_check_sees_what_it_must(tmp_path: Path, package: str, source: str, expected: list):
    """A guard that never fires is none."""
    folder = tmp_path.joinpath(*package.split("."))
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(source)
    found = CHECK["violations"](tmp_path)
    assert [line.rsplit(" ", 1)[1] for line in found] == expected


def test_the_check_finds_all_that_it_is_told_to_look_at():
    """Also what is a module and no package, as the judge of histories is."""
    for package in CHECK["ALLOWED"]:
        assert CHECK["files"](ROOT, package), package


@pytest.mark.parametrize(
    "modules", ["muster.process.roles, workers.supervisor.supervisor", "muster.up.up"]
)
def test_a_supervisor_and_up_load_nothing_of_the_views(modules: str) -> None:
    """They start sooner, and stay smaller, without what only others need."""
    code = f"import sys, {modules}; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "workers" in loaded
    assert not loaded & {"projector", "sqlalchemy", "aiohttp", "psycopg"}
