"""The judge shares nothing with the judged."""

import ast
from pathlib import Path

from tests.chaos.judge import Evidence, weigh
from tests.chaos.judging.history import Head
from tests.chaos.judging.streams import Streamed

CHAOS = Path(__file__).parents[2] / "chaos"
PLAIN = {"__future__", "sqlite3", "redis", "psycopg"}


def test_the_judge_imports_nothing_of_muster() -> None:
    import sys

    allowed = PLAIN | set(sys.stdlib_module_names)
    for path in [CHAOS / "judge.py", *sorted((CHAOS / "judging").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                own = name.startswith(("tests.chaos.judging",))
                assert own or name.partition(".")[0] in allowed, f"{path.name} imports {name}"


def test_an_empty_log_is_no_offence() -> None:
    assert weigh(Evidence(streamed={"": Streamed(), "p": Streamed(head=Head(1, 0))})) == []
