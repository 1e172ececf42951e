"""The documents say what the code does: names, fields, defaults, states, links and commands.

Everything is derived from the code. Where a page and the code differ, in either direction, the page
is corrected.
"""

import ast
import re
import runpy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec
import pytest

from eventstore.language.events import (
    ENTRY_FIELDS,
    EVENT_TYPES,
    AgentBody,
    Error,
    HostBody,
    PoolBody,
    WorkerBody,
)
from eventstore.language.pool_config import PoolConfig
from gateway.health.alerts import RULES
from gateway.health.metrics import FAMILIES
from gateway.wire import problems
from muster.__main__ import main
from muster.settings.settings import Settings
from projector.store.tables import CAPACITY, METADATA

ROOT = Path(__file__).parents[3]
PACKAGES = ("eventstore", "workers", "projector", "gateway", "muster")
EVENTS, OPERATIONS, WRITING, ARCHITECTURE = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("events", "operations", "writing-agents", "architecture")
)
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
RECEIVERS = {"log", "_log", "logger", "_logger"}


# ---- reading the pages -----------------------------------------------------------------------


def section(page: str, heading: str) -> str:
    """The text under a heading, up to the next one of its rank or above."""
    rank = heading.split(" ", 1)[0]
    text = page.partition(f"\n{heading}\n")[2]
    assert text, f"there is no {heading!r}"
    return re.split(rf"^#{{1,{len(rank)}}} ", text, maxsplit=1, flags=re.MULTILINE)[0]


def table(text: str) -> list[list[str]]:
    """The rows of the first table in a text, without its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def first_names(text: str) -> list[str]:
    """The code in the first column of all tables of a text."""
    rows = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    return [name for name in rows if name not in ("name", "field")]


# ---- reading the code ------------------------------------------------------------------------


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path, ast.parse(path.read_text())


def log_names() -> set[str]:
    """The first argument of every call of a logger, followed into a constant of the module."""
    found: set[str] = set()
    for path, tree in sources():
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _logs(node.func):
                found |= set(_texts(node.args[0], constants, path))
    return found


def _logs(function: ast.expr) -> bool:
    if not isinstance(function, ast.Attribute) or function.attr not in LEVELS:
        return False
    on = function.value
    name = on.attr if isinstance(on, ast.Attribute) else on.id if isinstance(on, ast.Name) else ""
    return name in RECEIVERS


def _texts(argument: ast.expr, constants: dict[str, ast.expr], path: Path) -> Iterator[str]:
    if isinstance(argument, ast.Constant):
        yield str(argument.value)
        return
    table = argument.value if isinstance(argument, ast.Subscript) else argument
    assert isinstance(table, ast.Name), f"{path}:{argument.lineno}: a log name must be a constant"
    mapping = constants[table.id]
    assert isinstance(mapping, ast.Dict), f"{path}:{argument.lineno}: a log name must be a constant"
    for value in mapping.values:
        assert isinstance(value, ast.Constant)
        yield str(value.value)


# ---- events ----------------------------------------------------------------------------------

BODIES = [body for u in (AgentBody, WorkerBody, PoolBody, HostBody) for body in get_args(u)]
WORDS: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    msgspec.Raw: "object",
    dict[str, str]: "object",
    Error: "error",
}


def described(field: msgspec.structs.FieldInfo) -> list[str]:
    """A field's name, type and default as its row says them."""
    bounded = get_origin(field.type) is Annotated
    kind = field.type.__origin__ if bounded else field.type
    optional = isinstance(kind, types.UnionType) or type(None) in get_args(kind)
    word = WORDS[get_args(kind)[0]] + " or null" if optional else WORDS[kind]
    return [f"`{field.name}`", word, _default(field)]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default_factory is not msgspec.NODEFAULT:
        return "`{}`"
    if field.default is msgspec.NODEFAULT:
        return ""
    value = field.default
    shown = bytes(value) if isinstance(value, msgspec.Raw) else msgspec.json.encode(value)
    return f"`{shown.decode()}`"


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.type)
def test_an_event_is_described_field_by_field(body: Any) -> None:
    """Name, version, and each field's type and default; no field that is not there any more."""
    text = section(EVENTS, f"### `{body.type}`")
    assert text.strip().startswith(f"Version {body.version}. Subject: ")
    rows = [row[:3] for row in table(text)]
    assert rows == [described(field) for field in msgspec.structs.fields(body)]


def test_no_event_is_described_that_is_not_written() -> None:
    headings = re.findall(r"^### `([a-z_.]+)`$", EVENTS, re.MULTILINE)
    assert sorted(headings) == sorted([*EVENT_TYPES, "worker.heartbeat"])


def test_the_fields_of_an_entry_are_listed_in_their_order() -> None:
    names = first_names(section(EVENTS, "## An entry"))
    assert names == list(ENTRY_FIELDS)


# ---- log names and metrics -------------------------------------------------------------------


def test_every_log_name_is_listed_and_no_other() -> None:
    found = log_names()
    assert "agent.started" in found, "names in a table of the code are followed"
    assert sorted(first_names(section(EVENTS, "## Log names"))) == sorted(found)


def test_every_metric_is_listed_with_its_kind() -> None:
    rows = {row[0].strip("`"): row[1] for row in table(section(EVENTS, "## Metrics"))}
    assert rows == {name: kind for name, (kind, _) in FAMILIES.items()}


# ---- what the HTTP API answers ---------------------------------------------------------------


def test_every_problem_is_listed_with_its_status() -> None:
    rows = {row[0].strip("`"): row[1:3] for row in table(section(EVENTS, "## Problems"))}
    statuses = {kind.value: kind.status for kind in problems.Kind if kind.status}
    after = {kind.value: f"{kind.retry_after} s" for kind in problems.Kind if kind.retry_after}
    assert rows == {name: [str(statuses[name]), after.get(name, "")] for name in statuses}


def test_every_alert_is_listed_with_its_severity() -> None:
    rows = table(section(OPERATIONS, "### Alerts"))
    listed = {name: row[1] for row in rows for name in re.findall(r"`([a-z-]+)`", row[0])}
    assert listed == {name: rule.severity for name, rule in RULES.items()}


@pytest.mark.parametrize("name", RULES)
def test_every_alert_is_raised_somewhere(name: str) -> None:
    """Those of an event bear its name."""
    source = (ROOT / "gateway/health/alerts.py").read_text()
    assert f'"{name}"' in source or f'"{name.replace("-", ".")}"' in source


# ---- settings and tables ---------------------------------------------------------------------

RUN_TIME: set[str] = {"roles", "pools", "sources", "fallback_views_url"}
"""Of `Settings`: what tables of the file become, where values came from, a fallback's own."""


def test_every_setting_is_listed_with_its_names(capsys: pytest.CaptureFixture[str]) -> None:
    """The key, the variable, the flag where a role has one, and the default."""
    flags = flags_of_roles(capsys)
    rows = {row[0].strip("`"): row for row in table(section(OPERATIONS, "### Of a process"))}
    fields = {f.name: f for f in msgspec.structs.fields(Settings) if f.name not in RUN_TIME}
    assert sorted(rows) == sorted(fields)
    for name, field in fields.items():
        key, flag, variables, default, *_ = rows[name]
        wanted = f"--{name.replace('_', '-')}"
        assert (key, flag) == (f"`{name}`", f"`{wanted}`" if wanted in flags else "")
        assert f"`MUSTER_{name.upper()}`" in variables
        if isinstance(field.default, bool | int | float) or field.default:
            assert default == f"`{_plain(field.default)}`", name


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def flags_of_roles(capsys: pytest.CaptureFixture[str]) -> set[str]:
    for role in ("up", "gateway", "projector", "supervisor"):
        with pytest.raises(SystemExit):
            main([role, "--help"])
    return set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_every_setting_of_a_pool_is_listed_with_default_and_range() -> None:
    rows = {row[0].strip("`"): row for row in table(section(OPERATIONS, "### Of a pool"))}
    fields = {field.name: field for field in msgspec.structs.fields(PoolConfig)}
    assert list(rows) == list(fields)
    for name, field in fields.items():
        assert rows[name][1:3] == [f"`{_plain(field.default)}`", allowed(field.type)]


def allowed(kind: Any) -> str:
    """The range that a type's bounds leave."""
    [bounds] = kind.__metadata__
    least = f"above {bounds.gt:,}" if bounds.gt is not None else f"{bounds.ge:,}"
    return f"{least} to {bounds.le:,}"


def test_every_table_and_column_of_the_views_is_listed() -> None:
    text = section(OPERATIONS, "## The views in SQL")
    rows = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in table(text)}
    wanted = {t.name: [column.name for column in t.columns] for t in METADATA.sorted_tables}
    wanted["pool_capacity"] = [column.name for column in CAPACITY.columns]
    assert {name: sorted(names) for name, names in rows.items()} == {
        name: sorted(names) for name, names in wanted.items()
    }


def test_every_key_that_a_script_creates_is_in_the_architecture() -> None:
    scripts = "\n".join(p.read_text() for p in (ROOT / "eventstore/log/lua").glob("*.lua"))
    parts = set(re.findall(r"base \.\. '([a-z]+)", scripts)) | {"meta", "events", "salvage"}
    listed = first_names(section(ARCHITECTURE, "## What is in Redis"))
    keys = {name.split(":")[2] for name in listed if name.startswith("pool:{P}:")}
    assert keys == parts


def test_the_packages_are_listed_in_the_order_of_the_import_check() -> None:
    allowed = runpy.run_path(str(ROOT / ".ci/imports.py"))["ALLOWED"]
    packages = [name for name in allowed if not name.startswith("tests.")]
    assert first_names(section(ARCHITECTURE, "## Packages")) == packages


def test_the_files_in_the_picture_exist() -> None:
    drawn = re.findall(r'class="file"[^>]*>([^<]+)<', (ROOT / "docs/spawn.svg").read_text())
    files = [name for text in drawn for name in text.split(", ") if "/" in name]
    assert len(files) >= 12
    for name in files:
        assert any(ROOT.glob(f"*/{name}" if name.endswith("/") else f"*/{name}.py")), name


# ---- code, commands and links ----------------------------------------------------------------


def test_code_shown_from_a_file_is_that_file() -> None:
    marked = r"^<!-- (docs/\S+) -->\n```\w+\n(.*?)^```"
    shown = re.findall(marked, WRITING, re.MULTILINE | re.DOTALL)
    assert len(shown) >= 3
    for path, text in shown:
        assert text == (ROOT / path).read_text(), path


def test_the_diff_that_adds_a_field_still_applies() -> None:
    page = (ROOT / "docs/how-to-add.md").read_text()
    [diff] = re.findall(r"^```diff\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    parts = re.findall(
        r"^\+\+\+ b/(\S+)\n@@ (.+) @@\n((?:[ +-].*\n)+?)(?=---|\Z)", diff, re.MULTILINE
    )
    assert len(parts) == 4
    for path, start, lines in parts:
        old = "".join(line[1:] for line in lines.splitlines(True) if line[0] in " -")
        _, found, after = (ROOT / path).read_text().partition(f"\n{start}")
        assert found, f"{path}: {start}"
        now, then = (re.sub(r"\b\d+\b", "N", text) for text in (f"{start}{after}", old))
        assert then in now, path


def test_the_tests_that_guard_each_kind_of_change_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/how-to-add.md").read_text()))
    source = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 10
    assert named <= set(re.findall(r"def (test_\w+)", source))


def test_the_first_two_commands_of_the_readme_are_the_two_that_ci_runs() -> None:
    commands = runpy.run_path(str(ROOT / ".ci/readme.py"))["commands"]
    assert list(commands((ROOT / "README.md").read_text()))[:2] == [
        "python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/muster up",
        "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", text):
        if "://" in target:
            continue
        to = page.parent / target if target else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to.read_text()), f"{target}#{anchor}"
    for name in re.findall(rf"`((?:{'|'.join((*PACKAGES, 'tests', 'deploy'))})/[\w./-]+)`", text):
        assert (ROOT / name).exists(), name


def anchors(text: str) -> set[str]:
    """The anchors that headings get: lower case, punctuation gone, spaces as hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
