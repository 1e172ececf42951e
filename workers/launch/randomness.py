"""Random numbers after a fork: workers of one zygote must not draw the same ones.

Python's own generator is seeded again by Python. This does it for others that a role's import may
have loaded. Generators that a module has made for itself cannot be found: `preload = false`.
"""

import sys
from typing import Any


def reseed() -> None:
    """Seed what is loaded. To be called first in a forked process."""
    for name in ("numpy.random", "torch"):
        module: Any = sys.modules.get(name)
        seed = getattr(module, "seed", None)
        if seed is not None:
            seed()
    unique: Any = sys.modules.get("uuid")
    if unique is not None:  # libuuid's clock sequence would be the same in all
        unique._generate_time_safe = None
        unique._last_timestamp = None
