"""Scaling policies in files: settings of a pool, as TOML. A policy is named for its file."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eventstore.errors import ConfigurationError
from muster.settings.settings import abbreviate


def read_policy(path: Path) -> dict[str, Any]:
    """Its settings, unchecked. Raises `ConfigurationError`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # it is no TOML, or no UTF-8
        raise ConfigurationError(f"{path}: {error}") from None


def read_policies(names: object, folder: Path = Path()) -> object:
    """A list of files as their settings by name; what is no such list is returned as it is.

    Who runs a pool cannot read them: a path means nothing on another host. Raises
    `ConfigurationError`.
    """
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, Sequence):
        return names
    policies: dict[str, Any] = {}
    for name in names:
        if not isinstance(name, str):
            raise ConfigurationError(f"shadow: expected names of files, got {abbreviate(name)}")
        path = folder / name
        if path.stem in policies:
            raise ConfigurationError(f"shadow: two policies are named {path.stem}")
        policies[path.stem] = read_policy(path)
    return policies
