"""The `eventsourcing` library on SQLite: appends histories of aggregates, and folds all of them.

`append COUNT` and `replay` on its input are answered with events per second.
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from uuid import UUID

FOLDER = tempfile.mkdtemp(dir=os.environ.get("BENCH_FOLDER"))
os.environ["PERSISTENCE_MODULE"] = "eventsourcing.sqlite"
os.environ["SQLITE_DBNAME"] = str(Path(FOLDER) / "events.db")

from eventsourcing.application import Application  # noqa: E402  # reads the environment
from eventsourcing.domain import Aggregate, event  # noqa: E402

EVENTS_OF_A_LIFE = 10
BATCH = 1000


class Agent(Aggregate):
    @event("Requested")
    def __init__(self, project_id: str) -> None:
        self.project_id, self.status = project_id, "pending"

    @event("Moved")
    def move(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason


class Agents(Application[UUID]):
    log_section_size = BATCH


def append(agents: Agents, count: int) -> float:
    began = time.perf_counter()
    for _ in range(count // EVENTS_OF_A_LIFE):
        agent = Agent("bench")
        agents.save(agent)
        for _ in range(EVENTS_OF_A_LIFE - 1):
            agent.move("running", "requested")
            agents.save(agent)
    return count / (time.perf_counter() - began)


def replay(agents: Agents) -> float:
    began, events = time.perf_counter(), 0
    states: dict[UUID, object] = {}
    while found := agents.notification_log.select(events + 1, BATCH):
        for notification in found:
            change = agents.mapper.to_domain_event(notification)
            states[change.originator_id] = change.mutate(states.get(change.originator_id))
        events = found[-1].id
    return events / (time.perf_counter() - began)


if __name__ == "__main__":
    application = Agents()
    for line in sys.stdin:
        verb, *number = line.split()
        done = append(application, int(number[0])) if verb == "append" else replay(application)
        print(done, flush=True)
