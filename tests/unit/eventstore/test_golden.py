"""What the code writes and answers is, byte for byte, what it was when the samples were recorded.

Hashes in Redis, entries of streams, rows in SQL and JSON over HTTP are read by other versions, by
dashboards and by people: no rearrangement of the code may move them. Every state here is folded
from recorded entries, so the samples name nothing of the code. A test that fails here shows a
contract that moved: fix the code, not the sample. (For a field that was added see `tests.golden`.)
"""

from typing import Any

import pytest

from tests import golden, golden_forms, golden_surface

HISTORIES = golden.sample("histories")
STATES = golden.sample("states")
ENTRIES = golden.every_entry(HISTORIES)
TODAYS = [it for it in ENTRIES if it["version"] == golden_forms.VERSIONS[it["type"]]]
"""Those whose type has not had a new version since."""
AGENTS, WORKERS = HISTORIES["agents"], HISTORIES["workers"]
POOLS, HOSTS = golden_forms.fold_catalogue(golden.events(HISTORIES["catalogue"]))


def same(found: Any, recorded: Any) -> None:
    """Equal in the order of the fields and in the types of the values, too."""
    assert golden.text_of(found) == golden.text_of(recorded)


# ---- events ------------------------------------------------------------------------------------


def test_every_type_of_event_is_in_some_history() -> None:
    assert {fields["type"] for fields in ENTRIES} == set(golden_forms.TYPES)


@pytest.mark.parametrize("fields", TODAYS, ids=lambda fields: fields["event_id"][-4:])
def test_an_entry_is_written_as_it_was_recorded(fields: dict[str, str]) -> None:
    assert list(fields) == list(golden_forms.FIELDS)
    same(golden_forms.written(golden_forms.read(golden.entry(fields))), fields)


@pytest.mark.parametrize("fields", ENTRIES, ids=lambda fields: fields["event_id"][-4:])
def test_an_archived_entry_is_read_as_from_the_stream_and_can_be_written_back(
    fields: dict[str, str],
) -> None:
    entry = golden.entry(fields)
    assert golden_forms.read_from_archive(entry) == golden_forms.read(entry)
    assert golden_forms.entry_from_row(golden_forms.event_forms(entry)["row"]) == entry


@pytest.mark.parametrize("kind", golden_forms.TYPES)
def test_an_event_is_archived_and_answered_as_recorded(kind: str) -> None:
    fields = golden.fullest(HISTORIES)[kind]
    same(golden_forms.event_forms(golden.entry(fields)), STATES["events"][kind])


def test_heartbeats_are_gathered_as_recorded() -> None:
    same(
        golden_forms.heartbeat_forms(golden.entries(HISTORIES["heartbeats"])), STATES["heartbeats"]
    )


# ---- agents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_has_the_hash_the_row_and_the_answers_that_were_recorded(name: str) -> None:
    agent = golden_forms.fold_agent(golden.events(AGENTS[name]))
    same(golden_forms.agent_forms(agent), STATES["agents"][name])


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_is_read_back_from_its_recorded_hash(name: str) -> None:
    agent = golden_forms.fold_agent(golden.events(AGENTS[name]))
    subject, fields = AGENTS[name][0]["subject"], STATES["agents"][name]["hash"]
    found = golden_forms.agent_from_hash(subject, fields)
    same(golden_forms.agent_forms(found)["hash"], fields)
    if "large numbers" not in name:  # a hash stores 15 digits of an interval
        assert found == golden_forms.as_stored_in_redis(agent)


def test_a_hash_from_before_isolation_is_read() -> None:
    fields = dict(STATES["agents"]["starting"]["hash"])
    del fields["alone"]
    assert (
        golden_forms.agent_forms(golden_forms.agent_from_hash("a", fields))["hash"]["alone"] == ""
    )


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_is_read_back_from_its_recorded_row(name: str) -> None:
    agent, row = golden_forms.fold_agent(golden.events(AGENTS[name])), STATES["agents"][name]["row"]
    found = golden_forms.agent_from_row(row)
    same(golden_forms.agent_forms(found)["row"], row)
    if "controls" not in name:  # a row stores no U+0000
        assert found == agent


# ---- workers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_the_hash_the_row_and_the_answer_that_were_recorded(name: str) -> None:
    worker = golden_forms.fold_worker(golden.events(WORKERS[name]))
    same(golden_forms.worker_forms(worker), STATES["workers"][name])


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_read_back_from_its_recorded_hash(name: str) -> None:
    worker = golden_forms.fold_worker(golden.events(WORKERS[name]))
    subject, fields = WORKERS[name][0]["subject"], STATES["workers"][name]["hash"]
    assert golden_forms.worker_from_hash(subject, fields) == golden_forms.worker_as_stored_in_redis(
        worker
    )


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_read_back_from_its_recorded_row(name: str) -> None:
    worker, row = (
        golden_forms.fold_worker(golden.events(WORKERS[name])),
        STATES["workers"][name]["row"],
    )
    found = golden_forms.worker_from_row(row)
    same(golden_forms.worker_forms(found)["row"], row)
    if "another name" not in name:  # as above
        assert found == worker


# ---- pools, hosts, and all else ------------------------------------------------------------------


def test_pools_have_the_rows_and_answers_that_were_recorded() -> None:
    same({pool.pool_name: golden_forms.pool_forms(pool) for pool in POOLS}, STATES["pools"])


def test_pools_are_read_back_from_their_recorded_rows() -> None:
    assert [golden_forms.pool_from_row(form["row"]) for form in STATES["pools"].values()] == POOLS


def test_hosts_have_the_rows_and_answers_that_were_recorded() -> None:
    same({host.host: golden_forms.host_forms(host) for host in HOSTS}, STATES["hosts"])


def test_tokens_have_the_rows_that_were_recorded_and_are_read_back_from_them() -> None:
    same(golden_forms.token_forms(golden.events(HISTORIES["catalogue"])), STATES["tokens"])
    rows = list(STATES["tokens"].values())
    same([golden_forms.token_row(row) for row in rows], rows)


def test_hosts_are_read_back_from_their_recorded_rows() -> None:
    rows = [form["row"] for form in STATES["hosts"].values()]
    same([golden_forms.host_forms(golden_forms.host_from_row(row))["row"] for row in rows], rows)


@pytest.mark.parametrize("spawn", HISTORIES["spawns"])
def test_a_request_has_the_digest_that_was_recorded(spawn: str) -> None:
    """An Idempotency-Key that an older version remembered would be refused otherwise."""
    assert golden_forms.digest_of(spawn) == STATES["digests"][spawn]


def test_tables_have_the_columns_that_were_recorded() -> None:
    same(golden_forms.table_forms(), golden.sample("tables"))


@pytest.mark.parametrize("part", golden.sample("surface"))
def test_paths_bodies_problems_settings_and_commands_are_those_that_were_recorded(
    part: str,
) -> None:
    same(golden_surface.surface_forms()[part], golden.sample("surface")[part])
