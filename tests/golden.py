"""The golden samples in `tests/samples/golden`: read, and recorded again.

    python -m tests.golden        records all but `histories.json` and `redis.json` again

That is for a field that was added; what else `git diff` then shows is a broken contract.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eventstore.language.events import Event
from tests.golden_forms import (
    TYPES,
    Entry,
    Form,
    agent_forms,
    digest_of,
    event_forms,
    fold_agent,
    fold_catalogue,
    fold_worker,
    heartbeat_forms,
    host_forms,
    pool_forms,
    read,
    table_forms,
    token_forms,
    worker_forms,
)
from tests.golden_surface import surface_forms

FOLDER = Path(__file__).parent / "samples" / "golden"


def sample(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def entry(fields: Mapping[str, str], number: int = 0) -> Entry:
    """The fields of a sample as Redis returns an entry."""
    flat = [text.encode() for pair in fields.items() for text in pair]
    return f"{fields['ts']}-{number}".encode(), flat


def entries(history: Sequence[Mapping[str, str]]) -> list[Entry]:
    return [entry(fields) for fields in history]


def events(history: Sequence[Mapping[str, str]]) -> list[Event]:
    return [read(one) for one in entries(history)]


def states() -> Form:
    """Everything in `states.json`, made by today's code from `histories.json`."""
    histories = sample("histories")
    known_pools, known_hosts = fold_catalogue(events(histories["catalogue"]))
    return {
        "agents": {
            name: agent_forms(fold_agent(events(history)))
            for name, history in histories["agents"].items()
        },
        "workers": {
            name: worker_forms(fold_worker(events(history)))
            for name, history in histories["workers"].items()
        },
        "pools": {pool.pool_name: pool_forms(pool) for pool in known_pools},
        "hosts": {host.host: host_forms(host) for host in known_hosts},
        "tokens": token_forms(events(histories["catalogue"])),
        "events": {kind: event_forms(entry(it)) for kind, it in fullest(histories).items()},
        "heartbeats": heartbeat_forms(entries(histories["heartbeats"])),
        "digests": {spawn: digest_of(spawn) for spawn in histories["spawns"]},
    }


def every_entry(histories: Mapping[str, Any]) -> list[dict[str, str]]:
    """All events of all histories, in their order."""
    parts = [*histories["agents"].values(), *histories["workers"].values()]
    parts += [histories["catalogue"], histories["other events"]]
    return [fields for history in parts for fields in history]


def fullest(histories: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Of each type of event the longest one."""
    by_length = sorted(every_entry(histories), key=lambda fields: len("".join(fields.values())))
    found = {fields["type"]: fields for fields in by_length}
    return {kind: found[kind] for kind in TYPES}


def text_of(value: object) -> str:
    """As in the files: the types of numbers and the order of fields count too."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (FOLDER / "states.json").write_text(text_of(states()))
    (FOLDER / "tables.json").write_text(text_of(table_forms()))
    (FOLDER / "surface.json").write_text(text_of(surface_forms()))
