"""A client that is generated from `/openapi.json` has every call, and is valid Python.

Takes the command of the generator (openapi-python-client) and a folder to work in; exits 1 if it
warns of anything, or a call is missing.
"""

import compileall
import json
import subprocess
import sys
from pathlib import Path

from gateway.server.routes import OPERATIONS, build_document


def main(generator: str, folder: Path) -> str:
    """What is wrong; empty if nothing is."""
    document, client = folder / "openapi.json", folder / "client"
    document.write_text(json.dumps(build_document("0", token=True)), encoding="utf-8")
    command = [generator, "generate", "--path", str(document), "--output-path", str(client)]
    done = subprocess.run(
        [*command, "--meta", "none", "--fail-on-warning"],
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode or "WARNING" in done.stdout + done.stderr:
        return f"the client could not be generated without a warning:\n{done.stdout}{done.stderr}"
    made = {path.stem for path in client.glob("api/*/*.py")}
    if missing := {operation.operation_id for operation in OPERATIONS} - made:
        return f"the client lacks {', '.join(sorted(missing))}"
    return "" if compileall.compile_dir(client, quiet=1) else "the client is no valid Python"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])) or 0)
