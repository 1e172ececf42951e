"""Environments of what Muster is compared with, and of what measures it."""

import subprocess
import sys
from pathlib import Path

import msgspec


class Environment:
    """A virtual environment with some packages, made once and kept in the cache."""

    def __init__(self, cache: Path, name: str, packages: tuple[str, ...]) -> None:
        self.bin = cache / name / "bin"
        self.packages = packages

    def make(self) -> None:
        """Raises subprocess.CalledProcessError where a package cannot be installed."""
        if not (self.bin / "installed").exists():
            subprocess.run([sys.executable, "-m", "venv", self.bin.parent], check=True)
            self._pip("install", "--quiet", *self.packages)
            (self.bin / "installed").touch()

    def versions(self) -> str:
        """Such as `taskiq 0.11.0, taskiq-redis 1.0.0`."""
        names = {package.split("[")[0].lower() for package in self.packages}
        shown = msgspec.json.decode(self._pip("list", "--format", "json"))
        return ", ".join(f"{one['name']} {one['version']}" for one in shown if one["name"] in names)

    def _pip(self, *arguments: str) -> bytes:
        return subprocess.run(
            [self.bin / "python", "-m", "pip", "--disable-pip-version-check", *arguments],
            check=True,
            capture_output=True,
        ).stdout
