"""The results of `muster doctor`: one line per check, with advice where something is wrong."""

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


class Check(Struct, frozen=True):
    """`found` describes the state, `change` what to do about it; `area` groups checks."""

    area: str
    name: str
    level: Level
    found: str
    change: str = ""


def check(area: str, name: str, found: str, change: str = "", level: Level = Level.WARN) -> Check:
    """A check that is OK where there is nothing to change."""
    return Check(area, name, level if change else Level.OK, found, change)
