"""The judge and what was observed from outside: by clients, and by the agents themselves."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.judge import weigh
from tests.chaos.judging import pools, traces
from tests.chaos.judging.catalogue import Catalogue
from tests.chaos.judging.commands import Command, LostCommand, judge, read_commands
from tests.chaos.judging.history import History
from tests.chaos.judging.offences import Offence
from tests.chaos.judging.traces import AgentTrace
from tests.chaos.stories import Story
from tests.unit.chaos.judged_story import numbers, only, place, sample_story


def judge_clients(*commands: Command, unsaved: tuple[LostCommand, ...] = ()) -> list[Offence]:
    evidence = sample_story().evidence()
    evidence.commands, evidence.unsaved = commands, unsaved
    return weigh(evidence)


def test_commands_that_were_carried_out_are_no_offence() -> None:
    assert not judge_clients(
        Command("spawn", pool="p", agent_id="runs", operation_id="operation of runs", seq=99),
        Command("terminate", pool="p", agent_id="ended"),
        Command("terminate", pool="p", agent_id="failed"),
        Command("spawn", "refused", pool="p", agent_id="unknown"),
        Command("spawn", "unknown", pool="p", agent_id="waits", operation_id="operation of waits"),
        Command("spawn", "refused", pool="p", operation_id="operation of runs"),
    )


@pytest.mark.parametrize(
    "command",
    [
        Command("spawn", pool="p", agent_id="unknown"),
        Command("terminate", pool="p", agent_id="runs"),
        Command("create_pool", pool="p"),
        Command("spawn", "refused", pool="p", agent_id="runs"),
        Command("spawn", "refused", pool="p", operation_id="operation of runs"),
        Command("terminate", "refused", pool="p", agent_id="ended"),
        Command("spawn", pool="p", agent_id="waits", seq=3, generation=1),
    ],
)
def test_a_command_without_its_effect_is_found(command: Command) -> None:
    assert numbers(judge_clients(command)) == {8}


def test_one_operation_with_two_agents_is_found() -> None:
    one = Command("spawn", pool="p", agent_id="runs", operation_id="operation of runs")
    assert numbers(judge_clients(one, replace(one, agent_id="waits"))) == {2}


def test_one_request_with_two_agents_is_found() -> None:
    """Without a key, only the request's id shows that the second one was not requested."""
    story = sample_story()
    for name in ("runs", "waits"):
        at = place(story, "agent.requested", name)
        story.entries[at] = replace(story.entries[at], correlation_id=f"request of {name}")
    evidence = story.evidence()
    evidence.commands = [
        Command("spawn", pool="p", agent_id=name, correlation_id=f"request of {name}")
        for name in ("runs", "waits")
    ]
    assert weigh(evidence) == []
    story.entries[at] = replace(story.entries[at], correlation_id="request of runs")
    evidence = story.evidence()
    evidence.commands = [
        Command("spawn", pool="p", agent_id="runs", correlation_id="request of runs")
    ]
    assert only(weigh(evidence), "request of runs is 2 agents: runs, waits").invariant == 2


def test_commands_reported_lost_may_be_missing_unless_archived() -> None:
    spawn = Command("spawn", pool="p", agent_id="unknown")
    named = (LostCommand("p", "unknown"),)
    assert judge_clients(spawn, unsaved=named) == []
    assert numbers(judge_clients(replace(spawn, level="archived"), unsaved=named)) == {8}


def test_a_pool_whose_log_is_gone_has_lost_its_commands() -> None:
    """Neither Redis nor the archive knows its name any more."""
    spawn = Command("spawn", pool="gone", agent_id="unknown")
    assert only(judge_clients(spawn), "not in the log, nor named as lost").pool == "gone"
    assert judge_clients(spawn, unsaved=(LostCommand("gone", "unknown"),)) == []


def test_a_spawn_that_only_a_worker_reported_is_named_by_its_agent() -> None:
    """Its gateway died before it could report; the worker that ran it did."""
    named = (LostCommand("p", "unknown", "holds"),)
    assert judge_clients(Command("spawn", pool="p", agent_id="unknown"), unsaved=named) == []
    assert numbers(
        judge_clients(Command("terminate", pool="p", agent_id="unknown"), unsaved=named)
    ) == {8}


# ---- commands on pools, whose names come again -------------------------------------------------


def twice(*commands: Command, unsaved: tuple[LostCommand, ...] = ()) -> list[Offence]:
    """Where pool q was created, changed and deleted, and then so once more."""
    some = replace(sample_story().entries[0], pool="", generation=1, subject="q")
    entries = [
        replace(some, seq=seq, type=kind, correlation_id=f"request-{seq}")
        for seq, kind in enumerate(("pool.created", "pool.changed", "pool.deleted") * 2, 1)
    ]
    return list(judge(commands, [History("", entries)], unsaved))


def on_q(kind: str, number: int) -> Command:
    return Command(kind, pool="q", correlation_id=f"request-{number}")


LIVES_OF_Q = [
    on_q("create_pool", 1),
    on_q("change_pool", 2),
    on_q("delete_pool", 3),
    on_q("create_pool", 4),
    on_q("change_pool", 5),
    on_q("delete_pool", 6),
]


def test_a_pool_that_was_created_twice_is_no_offence() -> None:
    assert twice(*LIVES_OF_Q) == []


@pytest.mark.parametrize("kind", ["create_pool", "change_pool", "delete_pool"])
def test_a_command_on_a_pool_is_not_proved_by_an_earlier_pool_of_that_name(kind: str) -> None:
    lost = on_q(kind, 7)
    assert numbers(twice(*LIVES_OF_Q, lost)) == {8}
    named = LostCommand("", "q", kind, generation=1, seq=7)
    assert twice(*LIVES_OF_Q, lost, unsaved=(named, named)) == []
    archived = replace(lost, level="archived")
    assert numbers(twice(*LIVES_OF_Q, archived, unsaved=(named,))) == {8}
    assert numbers(twice(*LIVES_OF_Q, lost, on_q(kind, 8), unsaved=(named, named))) == {8}


def test_a_pool_that_another_client_deleted_is_deleted() -> None:
    before, asked = LIVES_OF_Q[:5], on_q("delete_pool", 7)
    assert twice(*before, asked) == []
    assert numbers(twice(*before, asked, on_q("delete_pool", 8))) == {8}


def test_a_truncated_journal_is_read_to_its_last_complete_line(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"kind":"spawn","pool":"p","agent_id":"a","extra":1}\n{"kind":"sp')
    assert read_commands(journal) == [Command("spawn", pool="p", agent_id="a")]


# ---- what agents saw ---------------------------------------------------------------------------


def test_the_newest_line_is_known_before_all_are_read(tmp_path: Path) -> None:
    """Reading takes a while, in which those that are read last continue."""
    assert traces.newest(tmp_path) == 0.0
    for name, times in (("old", (3, 4)), ("new", (5, 6.5))):
        lines = [json.dumps({"at": at}) for at in times]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines, '{"at": 7']))
        os.utime(tmp_path / f"{name}.jsonl", (times[0], times[0]))
    assert traces.newest(tmp_path) == 6.5


def life(
    incarnation: int, worker: str, seq: int, *times: float, stopped: bool = True
) -> AgentTrace:
    return AgentTrace("p", "moved", incarnation, worker, f"1:{seq}", list(times), stopped)


def judge_runs(*lives: AgentTrace, ended_at: float = 0.0) -> list[Offence]:
    evidence = sample_story().evidence()
    evidence.traces = lives
    evidence.commands = (
        [Command("spawn", pool="p", agent_id="moved", ended_at=ended_at)] if ended_at else []
    )
    return weigh(evidence)


def incarnations(*, first: tuple[float, ...], second: tuple[float, ...]) -> list[AgentTrace]:
    story = sample_story()
    claims = [e for e in story.entries if (e.type, e.subject) == ("agent.claimed", "moved")]
    return [life(1, "w1", claims[0].seq, *first), life(2, "w2", claims[1].seq, *second)]


def test_incarnations_one_after_the_other_are_no_offence() -> None:
    assert judge_runs(*incarnations(first=(1, 2, 3), second=(4, 5)), ended_at=5.5) == []


def test_a_process_continued_after_a_long_stop_may_write_briefly() -> None:
    assert judge_runs(*incarnations(first=(1, 2, 60, 60.1), second=(14, 40, 70))) == []


def test_a_process_that_was_not_stopped_may_not_overlap_at_all() -> None:
    first = tuple(1 + number / 4 for number in range(20))  # until 5.75
    assert judge_runs(*incarnations(first=first, second=(5.5, 6, 7))) == []
    found = judge_runs(*incarnations(first=first, second=(5, 6, 7)))
    assert only(found, "for 0.8 s together with incarnation 2").invariant == 2


def test_a_stop_before_the_successor_started_excuses_nothing() -> None:
    first = (1.0, *(20 + number / 4 for number in range(20)))  # until 24.75
    found = judge_runs(*incarnations(first=first, second=(24, 25)))
    assert only(found, "together with incarnation 2").invariant == 2


def test_two_incarnations_that_run_together_are_found() -> None:
    first = tuple(float(second) for second in range(30))
    found = judge_runs(*incarnations(first=first, second=first[5:]))
    assert only(found, "together with incarnation 2").invariant == 2


def test_an_incarnation_that_two_processes_ran_is_found() -> None:
    one, two = incarnations(first=(1, 2), second=(3, 4))
    assert only(judge_runs(one, two, replace(two, times=[3.5])), "two processes").invariant == 2


def test_an_agent_that_ran_without_a_claim_is_found() -> None:
    assert only(judge_runs(life(3, "w2", 5, 1.0)), "never claimed").invariant == 2
    assert only(judge_runs(life(1, "w1", 5, 1.0)), "ran with token 1:5").invariant == 2


def test_an_agent_that_began_with_another_state_than_its_last_is_found() -> None:
    one, two = incarnations(first=(1, 2), second=(3, 4))
    assert judge_runs(replace(one, restored=""), replace(two, restored="")) == []
    found = only(judge_runs(one, replace(two, restored="older")), "another state than the one")
    assert found.invariant == 2


def test_an_agent_that_ran_after_its_end_was_acknowledged_is_found() -> None:
    found = judge_runs(*incarnations(first=(1, 2), second=(3, 4, 5)), ended_at=4.5)
    assert only(found, "after its end was answered").invariant == 3


def test_a_process_that_was_stopped_may_run_for_a_moment_when_it_wakes() -> None:
    """As docs/reliability.md says: it may not have run for long before its lease ended."""
    woke = (3.0, 4.0, 5.2, 5.3)
    assert list(judge_runs(*incarnations(first=(1, 2), second=woke), ended_at=5.1)) == []
    stayed = (*woke, *(5.3 + 0.5 * n for n in range(100)))
    found = judge_runs(*incarnations(first=(1, 2), second=stayed), ended_at=5.1)
    assert only(found, "after its end was answered").invariant == 3


def test_an_agent_whose_claim_was_lost_may_not_continue() -> None:
    """A recovery voids the claim; what ran by it has ended before anything runs again."""
    before, after = incarnations(first=(1, 2), second=(14, 15))
    assert void(before, after) == []
    together = replace(before, times=[float(second) for second in range(1, 40)])
    later = replace(after, times=together.times[14:])
    assert only(void(together, later), "together").invariant == 2


def test_an_agent_of_a_log_that_is_completely_lost_is_no_offence() -> None:
    """Its pool was lost with the catalogue, and created again in a later generation."""
    pool = pools.fold("p", [replace(entry, generation=2) for entry in sample_story().entries])
    before = life(1, "w9", 5, 1.0)
    assert list(traces.judge([before], {"p": pool}, Catalogue())) == []
    [found] = traces.judge([replace(before, token="2:5")], {"p": pool}, Catalogue())
    assert "ran with token 2:5" in found.why


def at_rest(*times: float, since: float = 50.0, **changes: Any) -> list[Offence]:
    """Judge `moved`, which runs and wrote at these times; any agent last wrote `since`."""
    story = Story()
    story.start(story.order("w1"))
    story.run(story.spawn("moved"), "w1")
    claim = story.entries[place(story, "agent.claimed", "moved")]
    evidence = story.evidence()
    evidence.traces = [replace(life(1, "w1", claim.seq, *times), **changes)]
    evidence.traced_at = since
    return weigh(evidence, at_rest=True)


def test_an_agent_that_runs_according_to_the_log_must_run() -> None:
    """Nothing else would show that its code ended, or never started, without an event."""
    assert at_rest(1, 2, 49) == []
    assert at_rest(1, 2, 41, since=0.0) == []
    silent = only(at_rest(1, 2, 38), "runs by the log, but was not seen for 12.0 s")
    assert (silent.invariant, silent.subject) == (2, "moved")
    assert only(at_rest(49, agent_id="another"), "was not seen at all").subject == "moved"


def void(*seen_lives: AgentTrace) -> list[Offence]:
    """Offences where the first life's claim was of a part of the log that was lost."""
    story = sample_story()
    pool = pools.fold("p", [replace(entry, generation=1) for entry in story.entries])
    recovery = replace(story.entries[0], type="log.recovered", generation=2, seq=90)
    pool.recoveries.append(recovery)
    first, *others = seen_lives
    renamed = [replace(first, token="1:95", incarnation=2), *others]
    return list(traces.judge(renamed, {"p": pool}, Catalogue()))
