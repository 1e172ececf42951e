"""What it costs a bare process to wake up: it sleeps, pings Redis, and sleeps again.

    python -m tests.bench.bare_waits REDIS_URL

Each line on its input says how often. The answer is the CPU time in milliseconds of one of the
times that the kernel let it run: two for each sleep, as it waits for the reply too.
"""

import sys
import time

import psutil
import redis

from tests.bench.processes import runs_of

SLEEP_SECONDS = 0.3


def main(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for line in sys.stdin:
            print(cost(client, int(line)), flush=True)


def cost(client: "redis.Redis", count: int) -> float:
    client.ping()
    own = [psutil.Process()]
    before, began = runs_of(own), time.process_time_ns()
    for _ in range(count):
        time.sleep(SLEEP_SECONDS)
        client.ping()
    return (time.process_time_ns() - began) / (runs_of(own) - before) / 1e6


if __name__ == "__main__":
    main(sys.argv[1])
