"""The commands that talk to a running Muster, one module each."""

from muster.commands import (
    doctor,
    logs,
    parked,
    pools,
    ps,
    recover,
    replay,
    spawn,
    tail,
    terminate,
    verify,
    workers,
)
from muster.commands.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add all of them to the parser of `muster`."""
    for module in (
        spawn,
        terminate,
        ps,
        pools,
        workers,
        parked,
        logs,
        tail,
        replay,
        recover,
        verify,
        doctor,
    ):
        module.add(subparsers)
