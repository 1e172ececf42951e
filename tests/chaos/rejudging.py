"""Judges the folder of a run again: its servers are started on their data, without Muster.

Only the servers change the folder when they start; copy it first to preserve it.
"""

from pathlib import Path

from tests.chaos.system import DATABASE, DurablePostgres
from tests.chaos.verdict import command, judge
from tests.servers import ValkeyServer


def judge_again(folder: Path) -> int:
    """Start the servers, ask the judge, say what it found; the exit code."""
    folder = folder.resolve()
    if not (folder / "journal.jsonl").exists():
        print(f"{folder} is not the folder of a run")
        return 2
    redis = ValkeyServer(folder / "redis", appendfsync="always")
    postgres = DurablePostgres(folder / "views") if (folder / "views" / "data").exists() else None
    try:
        redis.start()
        if postgres is not None:
            postgres.start()
        views = postgres.url(DATABASE) if postgres else f"sqlite:///{folder}/views/views.db"
        print(" ".join(command(redis.url, views, folder)))
        offences = judge(redis.url, views, folder)
    finally:
        redis.stop()
        if postgres is not None:
            postgres.stop()
    for offence in offences:
        print(f"VIOLATION: {offence}")
    print(f"{len(offences)} violations")
    return 1 if offences else 0
