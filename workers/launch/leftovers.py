"""What dead workers of this host have left running.

While its zygote lives, that ends what a killed worker leaves. This finds what both left, also those
of a supervisor before: everything that was started below a zygote has the supervisor's scope in
its environment, and what belongs to a living worker is below it. Processes are identified by that
and by pid and start time, never by a pid only.
"""

import contextlib
import os
import signal
from collections.abc import Collection

from workers.host.process_tree import all_processes, variable
from workers.launch.worker_process import WORKER_NAME
from workers.launch.zygote import ZYGOTE_NAME
from workers.runtime.child_records import SCOPE


def kill_leftovers(scope: str, alive: Collection[int]) -> list[str]:
    """Kill them; returns the names of those that were signalled, empty when none is left.

    `alive`: the pids of living workers and of whatever else is not to be touched, nor what is below
    these. To be repeated: what starts meanwhile is not seen.
    """
    processes = all_processes()
    spared = {pid for pid, one in processes.items() if one.name in {WORKER_NAME, ZYGOTE_NAME}}
    spared |= {*alive}
    killed = []
    for pid, found in processes.items():
        above, ancestor = {pid}, found.parent
        while ancestor in processes and ancestor not in above:
            above.add(ancestor)
            ancestor = processes[ancestor].parent
        if found.ended or above & spared or variable(pid, SCOPE) != scope:
            continue
        with contextlib.suppress(PermissionError):
            if found.process.signal(signal.SIGKILL):
                killed.append(found.name)
        with contextlib.suppress(ChildProcessError):  # where it was re-parented to this process
            os.waitpid(pid, os.WNOHANG)
    return killed
