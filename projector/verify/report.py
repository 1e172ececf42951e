"""The report of `verify`: every difference, and how much was compared."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct

DIFFERENCES_MAX: Final = 1000
"""How many are listed; further ones are only counted."""
Subject: TypeAlias = tuple[str, str, str]
"""The first three fields of a difference: what is compared, and where."""
Fields: TypeAlias = Mapping[str, Any]


class Difference(Struct, frozen=True):
    """`expected` is the value by the fold of the log, `found` the stored one."""

    where: str
    """`log`, `archive`, `views` or `redis`."""
    pool: str
    """Empty for the catalogue."""
    subject: str
    field: str
    expected: str
    found: str

    def __str__(self) -> str:
        name = f"{self.where}: {self.pool or 'catalogue'}: {self.subject}"
        return f"{name}: {self.field} should be {self.expected!r}, is {self.found!r}"


class CheckedPool(Struct, frozen=True):
    """The position of a pool's views, and of its log when Redis was compared."""

    pool: str
    views_seq: int
    log_seq: int


class Report(Struct):
    """Collects differences while things are compared."""

    pools: list[CheckedPool] = []
    events: int = 0
    """Folded."""
    subjects: int = 0
    """Rows, hashes and sets compared."""
    differences: list[Difference] = []
    omitted: int = 0
    """Differences beyond those listed."""

    @property
    def equal(self) -> bool:
        return not self.differences

    def add(self, subject: Subject, field: str, expected: Any, found: Any) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(Difference(*subject, field, str(expected), str(found)))
        else:
            self.omitted += 1

    def compare(self, subject: Subject, expected: Fields | None, found: Fields | None) -> None:
        """Each expected field with what was found; None: the subject is absent."""
        if expected is None:
            self.add(subject, "presence", "absent", "present")
            return
        self.subjects += 1
        if found is None:
            self.add(subject, "presence", "present", "absent")
            return
        for field, value in expected.items():
            if found.get(field) != value:
                self.add(subject, field, value, found.get(field))

    def compare_members(self, subject: Subject, expected: Fields, found: Fields) -> None:
        """A set, with its members' scores as values: members missing, unexpected or different."""
        self.subjects += 1
        for member in sorted(expected.keys() | found.keys()):
            wanted, actual = expected.get(member, "absent"), found.get(member, "absent")
            if wanted != actual:
                self.add(subject, member, wanted, actual)
