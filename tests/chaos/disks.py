"""A disk of its own for a server, small enough to fill in a second and large enough for hours.

Needs root: it is mounted for the run.
"""

import os
import subprocess
from pathlib import Path

SIZE = "1g"


class Disk:
    """A tmpfs on `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._mounted = False

    def mount(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = f"size={SIZE},mode=0755"
        command = ["mount", "-t", "tmpfs", "-o", options, "muster-chaos", str(self.folder)]
        subprocess.run(command, check=True, capture_output=True)
        self._mounted = True

    def fill(self) -> None:
        """Leave no byte free."""
        with self._ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                self._write(file.fileno(), size)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        """Unmount it, also where a process still uses it. A second call does nothing."""
        if self._mounted:
            self._mounted = False
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    @staticmethod
    def _write(file: int, size: int) -> None:
        try:
            while os.write(file, b"\0" * size) == size:
                pass
        except OSError:
            return


def mountable() -> bool:
    """Whether this process may mount: tried out, since root in a container often may not."""
    if os.geteuid() != 0:
        return False
    here = Path("/tmp") / f"muster-chaos-mount-{os.getpid()}"
    disk = Disk(here)
    try:
        disk.mount()
    except (OSError, subprocess.CalledProcessError):
        return False
    finally:
        disk.unmount()
        if here.is_dir():
            here.rmdir()
    return True
