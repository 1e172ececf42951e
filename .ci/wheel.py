"""The wheel holds every file of the five packages: Lua, HTML and style sheets too, and no other.

Takes the folder where the one wheel was built; exits 1 and names what is missing or too much.
"""

import runpy
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = tuple(runpy.run_path(str(ROOT / ".ci" / "imports.py"))["ROOMS"])


def expected() -> set[str]:
    """The files of the packages in the source."""
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*"))
    kept = (f for f in files if f.is_file() and "__pycache__" not in f.parts)
    return {f.relative_to(ROOT).as_posix() for f in kept}


def main() -> int:
    """Compare the wheel with the source."""
    (wheel,) = Path(sys.argv[1]).glob("agent_muster-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    differences = [f"missing from the wheel: {name}" for name in sorted(expected() - held)]
    differences += [f"not of the source: {name}" for name in sorted(held - expected())]
    print("\n".join(differences) or f"wheel: {len(held)} files, all there")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
