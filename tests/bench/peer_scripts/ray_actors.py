"""Ray: actors that stay, each in a process of its own as Ray has them.

`actors COUNT` on its input is answered with actors per second, from the question until all have
answered a call; they are ended before the answer.
"""

import os
import sys
import time

import ray


@ray.remote(num_cpus=0)
class Stays:
    def ready(self) -> bool:
        return True


def actors(count: int) -> float:
    began = time.perf_counter()
    made = [Stays.remote() for _ in range(count)]
    ray.get([actor.ready.remote() for actor in made])
    seconds = time.perf_counter() - began
    for actor in made:
        ray.kill(actor)
    return count / seconds


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray writes there what is no answer
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    for line in sys.stdin:
        print(actors(int(line.split()[1])), file=answers, flush=True)
    ray.shutdown()
