"""Ids differ, whatever process or thread makes them."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from eventstore.ids import is_id, new_id

_FORK = """
import os
from eventstore.ids import new_id
new_id()
reading, writing = os.pipe()
child = os.fork()
drawn = "".join(new_id()[-12:] for _ in range(50))
if not child:
    os.write(writing, drawn.encode())
    os._exit(0)
theirs = os.read(reading, 10_000).decode()
os.waitpid(child, 0)
print(len(theirs), theirs == drawn)
"""


def test_a_forked_child_draws_other_numbers_than_its_parent() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _FORK], capture_output=True, text=True, check=True, timeout=30
    )
    assert found.stdout.split() == ["600", "False"]


def test_threads_never_draw_the_same_number() -> None:
    """The pool is used up many times meanwhile."""
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda _: [new_id() for _ in range(2_000)], range(4)))
    made = [one for each in drawn for one in each]
    assert len(set(made)) == len(made)
    assert all(map(is_id, made))
