"""What `muster doctor` finds: one line a check, with what to change where it is not right."""

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


class Check(Struct, frozen=True):
    """`found` is what is the case, `change` what to do about it; `area` groups them."""

    area: str
    name: str
    level: Level
    found: str
    change: str = ""


def check(area: str, name: str, found: str, change: str = "", level: Level = Level.WARN) -> Check:
    """A check that is fine where there is nothing to change."""
    return Check(area, name, level if change else Level.OK, found, change)
