"""The report of `verify`: every difference, and how much was compared."""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

DIFFERENCES_MAX: Final = 1000
"""How many are listed; further ones are only counted."""


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


class Report(Struct, frozen=True, kw_only=True):
    pools: tuple[CheckedPool, ...]
    events: int
    """Folded."""
    subjects: int
    """Rows, hashes and sets compared."""
    differences: tuple[Difference, ...]
    omitted: int = 0
    """Differences beyond those listed."""

    @property
    def equal(self) -> bool:
        return not self.differences


class Findings:
    """Collects differences while things are compared."""

    def __init__(self) -> None:
        self.differences: list[Difference] = []
        self.checked: list[CheckedPool] = []
        self.omitted = 0
        self.subjects = 0
        self.events = 0

    def add(
        self, where: str, pool: str, subject: str, field: str, expected: Any, found: Any
    ) -> None:
        if len(self.differences) >= DIFFERENCES_MAX:
            self.omitted += 1
            return
        difference = Difference(where, pool, subject, field, str(expected), str(found))
        self.differences.append(difference)

    def compare(
        self,
        where: str,
        pool: str,
        subject: str,
        expected: Mapping[str, Any],
        found: Mapping[str, Any] | None,
    ) -> None:
        """Each expected field with what was found; None: nothing was found."""
        self.subjects += 1
        if found is None:
            self.add(where, pool, subject, "presence", "present", "absent")
            return
        for field, value in expected.items():
            if found.get(field) != value:
                self.add(where, pool, subject, field, value, found.get(field))

    def compare_members(
        self,
        where: str,
        pool: str,
        subject: str,
        expected: Mapping[str, Any],
        found: Mapping[str, Any],
    ) -> None:
        """A set, with its members' scores as values: members missing, unexpected or different."""
        self.subjects += 1
        for member in sorted(expected.keys() | found.keys()):
            wanted, actual = expected.get(member, "absent"), found.get(member, "absent")
            if wanted != actual:
                self.add(where, pool, subject, member, wanted, actual)

    def add_unexpected(self, where: str, pool: str, subject: str) -> None:
        self.add(where, pool, subject, "presence", "absent", "present")

    def report(self) -> Report:
        return Report(
            pools=tuple(self.checked),
            events=self.events,
            subjects=self.subjects,
            differences=tuple(self.differences),
            omitted=self.omitted,
        )
