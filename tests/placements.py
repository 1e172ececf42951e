"""What each strategy makes of the same 60 spawns over 8 workers: the table of docs/scaling.md.

    python -m tests.placements

The spawns come in tens. Every fifth agent lives for a day, the others for ten minutes; four
projects have as many each. The workers have ten slots, on two hosts, of which the first is busy.
"""

import random
from collections import Counter
from collections.abc import Iterator

from eventstore.language.placement import Candidate, Room, place
from eventstore.language.placement_policy import PlacementPolicy

SPAWNS, WORKERS, SLOTS, AT_ONCE = 60, 8, 10, 10
LONG_SECONDS, SHORT_SECONDS = 86_400.0, 600.0
PROJECTS = ("red", "green", "blue", "white")
NOW_MS = 1_000_000_000
BUSY, CALM = 0.6, 0.1
"""The pressure of the workers on each host before the first spawn."""
COLUMNS = (
    "placement", "agents per worker", "empty", "workers per project", "in use after ten minutes",
    "agents on the busy host",
)  # fmt: skip


def spawns(seed: int = 1) -> list[Candidate]:
    lives = [LONG_SECONDS if at % 5 == 0 else SHORT_SECONDS for at in range(SPAWNS)]
    projects = [PROJECTS[at % len(PROJECTS)] for at in range(SPAWNS)]
    chance = random.Random(seed)
    chance.shuffle(lives)
    chance.shuffle(projects)
    return [
        Candidate(agent_id=f"a{at:02}", project_id=project, expected_seconds=seconds)
        for at, (project, seconds) in enumerate(zip(projects, lives, strict=True))
    ]


def placed(strategy: str) -> list[Room]:
    """The workers after all spawns. `pull`: the fullest worker claims next."""
    rooms = {
        f"w{at}": Room(
            worker_id=f"w{at}", slots=SLOTS, host=f"h{at % 2}", pressure=CALM if at % 2 else BUSY
        )
        for at in range(WORKERS)
    }
    policy = PlacementPolicy(strategy="pack" if strategy == "pull" else strategy)
    waiting = spawns()
    for start in range(0, SPAWNS, AT_ONCE):
        batch = {one.agent_id: one for one in waiting[start : start + AT_ONCE]}
        known = batch.values()
        if strategy == "pull":  # which knows no lives
            known = [Candidate(agent_id=name) for name in batch]  # type: ignore[assignment]
        for agent_id, worker_id in place(
            known, list(rooms.values()), policy, now_ms=NOW_MS
        ).assignments:
            room, agent = rooms[worker_id], batch[agent_id]
            rooms[worker_id] = Room(
                worker_id=worker_id,
                slots=SLOTS,
                host=room.host,
                pressure=room.pressure + 0.04,
                agents=[*room.agents, agent],
            )
    return list(rooms.values())


def figures(strategy: str) -> Iterator[str]:
    rooms = placed(strategy)
    per_project = Counter(
        project for room in rooms for project in {agent.project_id for agent in room.agents}
    )
    yield strategy
    yield " ".join(str(len(room.agents)) for room in rooms)
    yield str(sum(not room.agents for room in rooms))
    yield f"{per_project.total() / len(per_project):.1f}"
    yield str(sum(any(map(lives_long, room.agents)) for room in rooms))
    yield str(sum(len(room.agents) for room in rooms if room.host == "h0"))


def lives_long(agent: Candidate) -> bool:
    return agent.expected_seconds == LONG_SECONDS


def table() -> str:
    rows = [COLUMNS, ["---"] * len(COLUMNS)]
    rows += [tuple(figures(name)) for name in ("pull", "spread", "pack", "affinity", "resource")]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(table())
