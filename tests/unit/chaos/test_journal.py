"""What a client's answers mean for its commands, and what its journal says of them."""

from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.chaos.asking import Answer, Meaning
from tests.chaos.commands import Desk, Spawn, Terminate
from tests.chaos.journal import Entry, Journal, operation_id, read
from tests.chaos.judging.commands import read_commands

ACCEPTED = Answer(202, {"agent_id": "a-1", "status": "pending"})
NO_CONNECTION = Answer(0, error="ClientConnectorError", sent=False)
BROKEN_OFF = Answer(0, error="ServerDisconnectedError")
UNKNOWN = Answer(503, {"type": "outcome-unknown", "agent_id": "a-1", "idempotency_key": "k-1"})
REFUSED = Answer(503, {"type": "redis-unreachable"})


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (ACCEPTED, Meaning.ACCEPTED),
        (Answer(502, {"type": "agent-start-failed", "agent_id": "a-1"}), Meaning.ACCEPTED),
        (NO_CONNECTION, Meaning.REFUSED),
        (BROKEN_OFF, Meaning.UNKNOWN),
        (UNKNOWN, Meaning.UNKNOWN),
        (Answer(503, {"type": "command-lost", "agent_id": "a-1"}), Meaning.UNKNOWN),
        (REFUSED, Meaning.REFUSED),
        (Answer(500, {"type": "internal"}), Meaning.UNKNOWN),
        (Answer(507, {"type": "redis-memory-exhausted"}), Meaning.REFUSED),
    ],
)
def test_what_an_http_answer_means_for_the_journal(answer: Answer, meaning: Meaning):
    """A broken connection proves nothing; one that was never made proves that nothing was done."""
    assert answer.meaning == meaning


class Scripted(Desk):
    """A desk whose gateways return these answers in turn."""

    def __init__(self, journal: Journal, *answers: Answer) -> None:
        super().__init__(["-"], journal, lambda: 0.0)
        self.left = list(answers)
        self.keys: list[str] = []

    async def ask(self, random: Random, method: str, path: str, *args: Any, **more: Any) -> Answer:
        self.keys.append(more["headers"].get("Idempotency-Key", ""))
        return self.left.pop(0)


@pytest.fixture
def journal(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    yield journal
    journal.close()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tests.chaos.commands.REPEAT_SECONDS", (0.0, 0.0))


async def spawn(journal: Journal, *answers: Answer, keyed: bool = True, follows: bool = True):
    desk = Scripted(journal, *answers)
    command = Spawn(desk, Random(1), "p", "1", keyed=keyed)
    command.follows = follows
    return await command.carry_out(), desk


async def test_an_unknown_outcome_is_retried_with_its_key(journal: Journal):
    """And counts as recovered once an answer says that it was accepted."""
    entry, desk = await spawn(journal, BROKEN_OFF, UNKNOWN, ACCEPTED)
    assert (entry.status, entry.recovered, entry.agent_id) == ("acknowledged", True, "a-1")
    assert desk.keys == ["command-1"] * 3
    assert entry.operation_id == operation_id("command-1")


async def test_a_command_with_an_unknown_outcome_is_never_noted_as_refused(journal: Journal):
    """A later refusal concerns only the later request: the first may have been carried out."""
    entry, desk = await spawn(journal, BROKEN_OFF, REFUSED, ACCEPTED)
    assert (entry.status, desk.left) == ("acknowledged", [])


async def test_a_refusal_is_final_unless_an_outcome_was_unknown(journal: Journal):
    entry, _ = await spawn(journal, REFUSED)
    assert (entry.status, entry.agent_id) == ("refused", "")


async def test_a_spawn_without_a_key_is_not_repeated(journal: Journal):
    """It stays unknown: asking again could make a second agent."""
    entry, _ = await spawn(journal, BROKEN_OFF, keyed=False)
    assert (entry.status, entry.operation_id) == ("unknown", "")


async def test_a_spawn_without_a_key_repeats_with_the_key_of_the_answer(journal: Journal):
    entry, desk = await spawn(journal, UNKNOWN, ACCEPTED, keyed=False)
    assert (entry.status, desk.keys) == ("acknowledged", ["", "k-1"])


async def test_an_accepted_agent_must_be_found(journal: Journal):
    """404 for an acknowledged agent is noted, to be compared with what was named as lost."""
    desk = Scripted(journal, Answer(404, {"type": "agent-not-found"}))
    entry = await Terminate(desk, Random(1), "p", "2", "a-1").carry_out()
    assert (entry.status, list(desk.missing)) == ("refused", ["a-1"])


async def test_the_journal_is_read_as_it_was_written(journal: Journal):
    """A line that was cut short, by the end of the harness, is left out."""
    entry, _ = await spawn(journal, ACCEPTED)
    with journal.path.open("ab") as file:
        file.write(b'{"kind":"spawn","po')
    assert read(journal.path) == [entry]
    assert journal.counts == {"acknowledged": 1, "refused": 0, "unknown": 0, "recovered": 0}
    assert journal.acknowledged == ["a-1"]
    assert isinstance(entry, Entry)


@pytest.mark.parametrize(
    ("status", "level", "found"),
    [
        (200, "archived", []),
        (202, "accepted", []),
        (200, "accepted", ["spawn chaos-1 asked for archived: 200 as accepted"]),
        (200, "", ["spawn chaos-1 asked for archived: 200 as nothing"]),
    ],
)
async def test_a_done_command_has_the_requested_durability(
    journal: Journal, status: int, level: str, found: list[str]
):
    """Only a 202 may state less."""
    desk = Scripted(journal, Answer(status, {"agent_id": "a-1"}, level=level))
    command = Spawn(desk, Random(1), "p", "1", keyed=True)
    command.level = "archived"
    entry = await command.carry_out()
    assert (entry.status, desk.offences) == ("acknowledged", found)


@pytest.mark.parametrize(
    ("position", "stale", "seq"),
    [("q:3,p:17,:4", False, 17), ("q:3", False, 0), ("", False, 0), ("p:17", True, 0)],
)
async def test_the_position_of_an_acknowledged_spawn_is_noted(
    journal: Journal, position: str, stale: bool, seq: int
):
    """The judge finds an event above that: it was acknowledged before it was written."""
    answer = Answer(202, {"agent_id": "a-1"}, stale=stale, position=position)
    entry, _ = await spawn(journal, answer)
    assert entry.seq == seq
    assert [command.seq for command in read_commands(journal.path)] == [seq]
