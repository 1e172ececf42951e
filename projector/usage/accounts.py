"""To which account an agent belongs, and that account's number."""

import hashlib
from typing import Final, Protocol, TypeAlias

import msgspec

from projector.store.mapping import storable
from projector.store.usage_rows import NO_LABELS, POOL_ACCOUNT

LABELLED_MAX: Final = 10_000
"""Accounts with labels of a pool; agents with other labels share an account of their project."""

Key: TypeAlias = tuple[str, str, str]
"""Role, project and labels."""
POOL: Final[Key] = ("", "", NO_LABELS)
"""The account that has all of a pool."""


class Spec(Protocol):
    """What decides: an agent, or the request for it."""

    @property
    def role_type(self) -> str: ...
    @property
    def project_id(self) -> str: ...
    @property
    def labels(self) -> dict[str, str]: ...


def key_of(spec: Spec) -> Key:
    """The account of an agent, unless it shares that with agents of other labels."""
    role, project, labels = spec.role_type, spec.project_id, spec.labels
    if "\0" in role or "\0" in project:  # as they are stored
        role, project = storable(role), storable(project)
    if not labels:
        return role, project, NO_LABELS
    return role, project, msgspec.json.encode(labels, order="sorted").decode()


def number_of(key: Key) -> int:
    """From a digest, so that every fold of the log gives the same."""
    if key == POOL:
        return POOL_ACCOUNT
    digest = hashlib.sha256(msgspec.json.encode(key)).digest()
    return int.from_bytes(digest[:8]) >> 1 or 1
