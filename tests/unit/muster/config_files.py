"""Configuration files, for tests of settings."""

from pathlib import Path


def write(folder: Path, text: str) -> Path:
    """Write the `muster.toml` of a folder."""
    path = folder / "muster.toml"
    path.write_text(text)
    return path
