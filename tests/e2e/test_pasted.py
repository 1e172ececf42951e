"""The commands of the pages, pasted as they are into a shell beside a running `muster up`.

Blocks marked `sh`, `bash` or `console` are meant to be pasted; what needs other hosts is `text`.
"""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

from tests.e2e.system import System

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = runpy.run_path(str(ROOT / ".ci/readme.py"))["commands"]
STARTS = ("python3 -m venv", ". .venv", ". ../", "muster up", "pip install")
"""Commands that set up or start what the test has set up and started."""


def paste(system: System, text: str, folder: Path) -> list[str]:
    """Run every command of a text, in one shell, and stop at the first that fails; the commands."""
    commands = [one for one in COMMANDS(text) if not one.startswith(STARTS)]
    script = "\n".join(["set -e", *commands]).replace("http://127.0.0.1:8000", system.url)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**system.env, "PATH": path, "MUSTER_URL": system.url}
    environment["MUSTER_DATA_DIR"] = str(system.data)
    done = subprocess.run(
        ["bash", "-xc", script], check=False, cwd=folder, env=environment, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    for heading in re.findall(r"^\$ muster \w+\n([A-Z]+ .*)$", text, re.MULTILINE):
        assert heading.split() in [line.split() for line in done.stdout.splitlines()]
    return commands


async def test_the_lines_of_the_readme_can_be_pasted(tmp_path: Path) -> None:
    """Its agent is saved under the name in its first line."""
    [code] = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    [config] = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    path = tmp_path / code.splitlines()[0].removeprefix("# ")
    path.parent.mkdir()
    path.write_text(code)
    async with System(tmp_path, config=config) as system:
        commands = paste(system, README, tmp_path)
        assert len(commands) >= 7
        assert "hello demo {'task': 1}" in system.muster("logs").stdout


async def test_the_lines_of_the_other_pages_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "scribe"
    ignored = shutil.ignore_patterns("__pycache__", ".muster")
    shutil.copytree(ROOT / "docs/examples/scribe", folder, ignore=ignored)
    config = (folder / "muster.toml").read_text() + '\n[pools.developer_pool]\nrole = "scribe"\n'
    async with System(folder, config=config) as system:
        assert len(paste(system, (folder / "README.md").read_text(), folder)) == 2
        assert len(paste(system, (ROOT / "docs/writing-agents.md").read_text(), folder)) >= 3
        assert len(paste(system, (ROOT / "docs/operations.md").read_text(), folder)) >= 6
