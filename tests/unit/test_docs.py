"""The documents name what the code has: events and their fields, metrics, log names, settings."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from eventstore.events import ENTRY_FIELDS, AgentBody, HostBody, PoolBody, WorkerBody
from eventstore.pool import PoolConfig
from muster.settings import Settings

ROOT = Path(__file__).parents[2]
EVENTS = (ROOT / "docs/events.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
PACKAGES = ("eventstore", "workers", "projector", "gateway", "muster")
BODIES = [b for union in (AgentBody, WorkerBody, PoolBody, HostBody) for b in get_args(union)]
LOG = re.compile(r'log(?:ger)?\.(?:debug|info|warning|error|exception)\(\s*"([a-z_]+\.[a-z_.]+)"')


def sources() -> str:
    return "\n".join(
        path.read_text() for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))
    )


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.type)
def test_every_event_and_field_is_described(body: type[msgspec.Struct]) -> None:
    kind = body.type  # type: ignore[attr-defined]
    version = body.version  # type: ignore[attr-defined]
    heading = f"### `{kind}` (version {version})\n"
    assert heading in EVENTS
    section = EVENTS.partition(heading)[2].partition("\n## ")[0].partition("\n### ")[0]
    for field in msgspec.structs.fields(body):
        assert f"| `{field.name}` |" in section


def test_every_field_of_an_entry_is_described() -> None:
    for field in ENTRY_FIELDS:
        assert f"| `{field}` |" in EVENTS


def test_every_metric_and_log_name_is_listed() -> None:
    text = sources()
    names = set(LOG.findall(text)) | set(re.findall(r'family\("(muster_[a-z_]+)"', text))
    assert len(names) > 30, "the search finds them"
    assert sorted(name for name in names if f"- `{name}`" not in EVENTS) == []


def test_every_setting_is_described() -> None:
    internal = {"roles", "pools", "sources"}
    for name in set(Settings.__struct_fields__) - internal:
        assert f"`MUSTER_{name.upper()}`" in OPERATIONS
    for name in PoolConfig.__struct_fields__:
        assert f"`{name}`" in OPERATIONS


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
