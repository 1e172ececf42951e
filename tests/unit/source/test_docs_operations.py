"""The pages of operations and architecture list what the code has: alerts, settings, tables."""

import re
import runpy
import types
from typing import Any, Union, get_args, get_origin

import msgspec
import pytest

from eventstore.language.placement_policy import STRATEGY_PATTERN
from eventstore.language.pool_config import CONSOLIDATE_PATTERN, PoolConfig
from eventstore.language.scale_policy import (
    BUFFER_PATTERN,
    FORECAST_PATTERN,
    PRESET_PATTERN,
    BehaviourSettings,
)
from gateway.alerts.rules import RULES, runbook
from muster.__main__ import main
from muster.settings.settings import Settings
from projector.store.tables import CAPACITY, METADATA
from projector.store.usage_rows import HISTORY_COLUMNS, HISTORY_VIEWS
from tests.unit.source.pages import ARCHITECTURE, OPERATIONS, ROOT, first_names, section, table


def test_every_alert_is_listed_with_its_severity_and_time() -> None:
    rows = table(section(OPERATIONS, "### Alerts"))
    listed = {row[0].strip("`"): (row[1], row[2]) for row in rows}
    wanted = {
        name: (rule.severity, f"{rule.for_seconds / 60:g} min" if rule.for_seconds else "")
        for name, rule in RULES.items()
    }
    assert listed == wanted
    assert [*listed] == [*wanted]


def test_every_alert_has_a_runbook_where_it_says() -> None:
    runbooks = re.findall(r"^#### `(.+)`$", section(OPERATIONS, "### Runbooks"), re.MULTILINE)
    assert runbooks == [*RULES]
    assert all(runbook(name) == f"docs/operations.md#{name}" for name in RULES)


RUN_TIME: set[str] = {
    "roles",
    "role_defaults",
    "deferred_roles",
    "pools",
    "webhooks",
    "sources",
    "fallback_views_url",
}
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
        default = {} if field.default is msgspec.NODEFAULT else _plain(field.default)
        assert rows[name][1:3] == [f"`{default}`", allowed(field.type)]


def allowed(kind: Any) -> str:
    """The range that a type's bounds leave."""
    if kind is BehaviourSettings:
        return "a table"
    if isinstance(kind, types.UnionType) or get_origin(kind) is Union:
        return " or ".join(map(allowed, get_args(kind)))
    if kind is type(None):
        return "null"
    [bounds] = kind.__metadata__
    if bounds.pattern is not None:
        shown = {
            PRESET_PATTERN: "`reactive`, `proactive`",
            BUFFER_PATTERN: "a share such as `10%`",
            STRATEGY_PATTERN: "`pull`, `spread`, `pack`, `affinity`, `resource`",
            CONSOLIDATE_PATTERN: "`off`, `auto`",
            FORECAST_PATTERN: "`off`, `on`, `only`",
        }
        return shown[bounds.pattern]
    if bounds.min_length is not None:
        return f"{bounds.min_length} to {bounds.max_length} characters"
    if bounds.max_length is not None:
        return f"up to {bounds.max_length:,}"
    least = f"above {bounds.gt:,}" if bounds.gt is not None else f"{bounds.ge:,}"
    return f"{least} to {bounds.le:,}"


def test_every_table_and_column_of_the_views_is_listed() -> None:
    text = section(OPERATIONS, "## The views in SQL")
    rows = {row[0].strip("`"): re.findall(r"`(\w+)`", row[2]) for row in table(text)}
    wanted = {t.name: [column.name for column in t.columns] for t in METADATA.sorted_tables}
    wanted["pool_capacity"] = [column.name for column in CAPACITY.columns]
    wanted |= {name: [*HISTORY_COLUMNS] for name in HISTORY_VIEWS}
    assert {name: sorted(names) for name, names in rows.items()} == {
        name: sorted(names) for name, names in wanted.items()
    }


def test_every_key_that_a_script_creates_is_in_the_architecture() -> None:
    scripts = "\n".join(p.read_text() for p in (ROOT / "eventstore/log/lua").glob("*.lua"))
    parts = set(re.findall(r"base \.\. '([a-z]+)", scripts)) | {
        "meta",
        "events",
        "salvage",
        "replaced",
        "damaged",
    }
    listed = first_names(section(ARCHITECTURE, "## What is in Redis"))
    keys = {name.split(":")[2] for name in listed if name.startswith("pool:{P}:")}
    catalogue = {n.split(":")[2] for n in listed if n.startswith("{muster:catalogue}:")}
    assert keys <= parts <= keys | catalogue


def test_the_packages_are_listed_in_the_order_of_the_import_check() -> None:
    allowed = runpy.run_path(str(ROOT / ".ci/imports.py"))["ALLOWED"]
    packages = [name for name in allowed if not name.startswith("tests.")]
    assert first_names(section(ARCHITECTURE, "## Packages")) == packages
