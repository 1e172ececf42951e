"""Loads the scripts: each is a shebang, constants, the shared prelude and its own text.

`claim` also gets the table of an agent's fields: it books only agents that `steps.hashes` can read.
"""

import hashlib
from functools import cache
from importlib.resources import files

from msgspec import Struct

from eventstore.steps import hashes


class Script(Struct, frozen=True):
    text: str
    digest: str


@cache
def script(name: str) -> Script:
    """A script's complete text and its digest.

    `admit` is `commit` within Redis' memory limit; `restore` is `commit` on a halted log.
    """
    folder = files("eventstore.log") / "lua"
    flags = {"admit": "", "survey": " flags=no-writes"}.get(name, " flags=allow-oom")
    constants = f"local RESTORING = {'true' if name == 'restore' else 'false'}"
    if name == "claim":
        constants += f"\nlocal AGENT_FIELDS = {hashes.AGENT.lua_checks()}"
    body = (folder / f"{'commit' if name in ('admit', 'restore') else name}.lua").read_text()
    text = f"#!lua{flags}\n{constants}\n{(folder / 'prelude.lua').read_text()}\n{body}"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
