"""Everything that can go wrong, by name: `FAULTS`. A file for each kind of thing that breaks."""

from tests.chaos.faults import (
    agents,
    clocks,
    connections,
    disks,
    losses,
    processes,
    servers,
    states,
)
from tests.chaos.faults.scene import FAULTS, Fault, Scene

__all__ = ["FAULTS", "Fault", "Scene", "agents", "clocks", "connections", "disks", "losses",
           "processes", "servers", "states"]  # fmt: skip
