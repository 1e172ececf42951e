"""What every benchmark gets: how much to measure, and where; and the order of rounds."""

import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from tests.bench.awake import Awake

T = TypeVar("T")


class Setup(Struct, frozen=True, kw_only=True):
    """`folder` is the benchmark's own, `cache` keeps the environments of peers."""

    quick: bool
    folder: Path
    cache: Path
    awake: Awake
    peers: tuple[str, ...]

    @property
    def rounds(self) -> int:
        return 3 if self.quick else 5

    def scaled(self, full: int, quick: int) -> int:
        """A size, smaller with `--quick`."""
        return quick if self.quick else full

    def new_folder(self, name: str) -> Path:
        """An empty folder that users other than root can pass through."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.folder))
        folder.chmod(0o711)
        return folder


@contextmanager
def new_setup(
    *, quick: bool, cache: Path | None = None, peers: tuple[str, ...] = ()
) -> Iterator[Setup]:
    """In a folder that is deleted, and with the processors awake, while this is open."""
    with (
        tempfile.TemporaryDirectory(prefix="muster-bench-", ignore_cleanup_errors=True) as name,
        Awake() as awake,
    ):
        folder = Path(name)
        folder.chmod(0o711)
        yield Setup(
            quick=quick, folder=folder, cache=cache or cache_folder(), awake=awake, peers=peers
        )


def cache_folder() -> Path:
    """Where environments are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster-bench"


async def interleaved(
    rounds: int, parts: Mapping[str, Callable[[], Awaitable[T]]]
) -> dict[str, list[T]]:
    """The results of each part: all parts in every round, in turn from front and back."""
    results: dict[str, list[T]] = {name: [] for name in parts}
    for number in range(rounds):
        for name in list(parts) if number % 2 == 0 else reversed(list(parts)):
            results[name].append(await parts[name]())
    return results
