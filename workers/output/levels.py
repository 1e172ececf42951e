"""What is logged at which level: by default warnings of libraries, and more of agents' own code.

That is the usual default of `logging`, WARNING, except for the packages that agents' classes are
in, and for `context.logger`: these log at the level of the setting `log_level`. A pool may set the
levels of other loggers. What a role's modules configured while they were imported holds otherwise.
"""

import logging
from collections.abc import Mapping

from msgspec import Struct

NUMBERS: Mapping[str, int] = {
    "debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40, "exception": 40,
    "critical": 50, "fatal": 50,
}  # fmt: skip
"""Of the methods of a logger."""


class Levels(Struct, frozen=True, kw_only=True):
    """The levels of one worker. Names of levels are those of `NUMBERS`, in any case."""

    own: str = "info"
    """Of the packages of agents' classes, and of `context.logger`."""
    packages: tuple[str, ...] = ()
    by_logger: Mapping[str, str] = {}
    """Of loggers by name; `root` is the one above all."""

    @property
    def number(self) -> int:
        """The level `own`."""
        return NUMBERS[self.own.lower()]

    def of_loggers(self, *, shared: bool) -> dict[logging.Logger, int]:
        """The levels to set. `shared`: other parts of the process set the root's present level."""
        root = logging.getLogger()
        levels: dict[logging.Logger, int] = {}
        if shared or root.level == logging.WARNING:
            levels[root] = max(logging.WARNING, self.number)
        for package in map(logging.getLogger, self.packages):
            if package.level == logging.NOTSET:
                levels[package] = self.number
        for name, level in self.by_logger.items():
            levels[logging.getLogger("" if name == "root" else name)] = NUMBERS[level.lower()]
        return levels
