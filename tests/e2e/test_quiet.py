"""What a start says, in odd surroundings."""

import signal
from pathlib import Path

from tests.e2e.system import System

STRICT = {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CONFIG = """# Größe
[roles.developer]
agent = "muster:Agent"
[pools.developer_pool]
role = "developer"
"""


async def test_nothing_warns_where_every_warning_is_an_error_and_the_locale_is_ascii(
    tmp_path: Path,
) -> None:
    async with System(tmp_path, env={**STRICT, **ASCII}, config=CONFIG) as system:
        agent = await system.spawn("developer_pool", project_id="demo")
        assert agent["status"] == "running"
        assert system.process is not None
        system.process.send_signal(signal.SIGTERM)
        system.process.wait(30)
        said = [path.read_text(encoding="utf-8") for path in (system.data / "logs").glob("*.err")]
        assert said == ["", "", ""]
        assert "Warning" not in system.said()
