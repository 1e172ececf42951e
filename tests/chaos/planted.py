"""Bugs that can be planted into a Muster from outside, to see that the harness finds them.

    python -m tests.chaos.planted NAME -- muster gateway …

runs that command with one bug in it. Nothing in the product knows of this: scripts' texts and some
functions are replaced before the role starts, and so again in the zygote, which is a program of its
own. `PLANTED` says with which faults each bug comes to light; without it they do no harm.
"""

import asyncio
import contextlib
import functools
import hashlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace
from redis import exceptions

from tests.chaos import planted_operations as operations

ACKNOWLEDGED_SECONDS = 0.3
"""How long before it is written a spawn is acknowledged."""
EVENTS_KEPT = 50
RETRIES = 3


class Planted(Struct, frozen=True):
    """A bug, the faults that bring it out, and the invariant of which the judge says so."""

    what: str
    plant: Callable[[], None]
    faults: tuple[str, ...]
    invariant: int


def no_epoch_check() -> None:
    """A worker that was declared lost can still claim."""

    def edit(text: str) -> str:
        text = _replaced(text, "is_fenced(worker, tonumber(epoch))", "false")
        return _replaced(text, "if worker.status ~= 'active' or", "if")

    _edit_scripts({"claim": edit})


def no_termination_flag() -> None:
    """An agent whose end was asked for is put back when its worker dies, and claimed again."""
    from eventstore.language import agent_commands, agents

    decide = agent_commands.decide

    def forgetful(command: Any, agent: Any) -> Any:
        if (
            isinstance(command, agent_commands.MarkLost | agent_commands.Release)
            and agent is not None
        ):
            agent = replace(agent, stop=agents.Stop.NO)
        return decide(command, agent)

    agent_commands.decide = forgetful
    flagged, never = "elseif agent.stop ~= '' then", "elseif false then"
    _edit_scripts({"claim": functools.partial(_replaced, old=flagged, new=never)})


def no_version_check() -> None:
    """A step is written although its agent has moved on since it was decided."""
    same, any_version = (
        "if tonumber(found[1] or 0) == version then return end",
        "if found[2] then return end",
    )
    _edit_scripts({"commit": functools.partial(_replaced, old=same, new=any_version)})


def acknowledged_early() -> None:
    """A spawn is acknowledged before it is written."""
    from eventstore.log.log import Log
    from eventstore.log.replies import Outcome, Reply
    from eventstore.log.script_runner import ScriptRunner

    commit = Log.commit
    behind: set[asyncio.Task[Any]] = set()

    async def early(
        self: ScriptRunner, step: Any, *, adds_load: bool = False, read_generation: int = 0
    ) -> Reply:
        if not adds_load:
            return await commit(self, step, read_generation=read_generation)

        async def later() -> None:
            await asyncio.sleep(ACKNOWLEDGED_SECONDS)
            await commit(self, step, adds_load=True)

        task = asyncio.ensure_future(later())
        behind.add(task)
        task.add_done_callback(behind.discard)
        return Reply(Outcome.DONE, *self.high_water_mark(step.pool), 0, (b"0-0",))

    Log.commit = early  # type: ignore[method-assign]


def trimmed_by_length() -> None:
    """Every append trims the log to its last events, whether they are archived or not."""
    closes = "local function write_head()\n"
    trims = f"{closes}  redis.call('XTRIM', events_key, 'MAXLEN', {EVENTS_KEPT})\n"
    edit = functools.partial(_replaced, old=closes, new=trims)
    _edit_scripts(dict.fromkeys(("commit", "admit", "claim"), edit))


def client_retries() -> None:
    """The Redis client sends again what was not answered, by itself."""
    from eventstore.connection.clients import Client

    call = Client.execute_command

    async def insistent(self: Client, *command: Any) -> Any:
        for _ in range(RETRIES):
            with contextlib.suppress(exceptions.ConnectionError, exceptions.TimeoutError):
                return await call(self, *command)
        return await call(self, *command)

    Client.execute_command = insistent  # type: ignore[method-assign]


def cordons_ignored() -> None:
    """Slots of a cordoned worker count as free, for all scripts."""
    heeds, ignores = " or worker.cordoned ~= '' then return 0 end", " then return 0 end"
    edit = functools.partial(_replaced, old=heeds, new=ignores)
    _edit_scripts(dict.fromkeys(("commit", "admit", "claim", "place"), edit))


PLANTED = {
    "no-epoch-check": Planted(
        "claim.lua without its epoch check",
        no_epoch_check,
        ("hosts_late",),
        invariant=4,
    ),
    "no-termination-flag": Planted(
        "a reap and claim.lua without the termination flag",
        no_termination_flag,
        ("worker_paused", "workers_killed"),
        invariant=3,
    ),
    "no-version-check": Planted(
        "commit.lua without its check of an agent's version",
        no_version_check,
        ("requests_stalled", "worker_paused"),
        invariant=6,
    ),
    "acknowledged-early": Planted(
        "an acknowledgement before the append",
        acknowledged_early,
        ("gateway_killed",),
        invariant=8,
    ),
    "trimmed-by-length": Planted(
        "a trim by length", trimmed_by_length, ("projectors_paused",), invariant=5
    ),
    "client-retries": Planted(
        "a client retry left on", client_retries, ("replies_cut",), invariant=2
    ),
    "cordons-ignored": Planted(
        "claim.lua without its check of a cordon", cordons_ignored, ("workers_killed",), invariant=9
    ),
    "deadlines-ignored": Planted(
        "a drain before its deadline",
        operations.deadlines_ignored,
        ("gateway_killed",),
        invariant=9,
    ),
    "replaced-at-once": Planted(
        "a replacement without its limit",
        operations.replaced_at_once,
        ("gateway_killed",),
        invariant=9,
    ),
    "busy-moved": Planted(
        "a consolidation that moves busy agents",
        operations.busy_moved,
        ("gateway_killed",),
        invariant=9,
    ),
    "moves-unlimited": Planted(
        "a consolidation without its budget of moves",
        operations.moves_unlimited,
        ("gateway_killed",),
        invariant=9,
    ),
    "caps-ignored": Planted(
        "a placer without caps", operations.caps_ignored, ("gateway_killed",), invariant=9
    ),
    "pauses-ignored": Planted(
        "scaling in a paused pool",
        operations.pauses_ignored,
        ("workers_killed",),
        invariant=9,
    ),
    "saves-not-stored": Planted(
        "a save that is acknowledged, and not stored",
        operations.saves_not_stored,
        ("gateway_killed",),
        invariant=8,
    ),
    "states-not-restored": Planted(
        "a start without the saved state",
        operations.states_not_restored,
        ("workers_killed",),
        invariant=2,
    ),
}


# ---- planting ----------------------------------------------------------------------------------


def _edit_scripts(edits: dict[str, Callable[[str], str]]) -> None:
    """Change some scripts' texts, for whoever asks for them from now on."""
    from eventstore.log import script_runner

    original = script_runner.script
    for name, edit in edits.items():  # one that no longer fits is an error at once
        edit(original(name).text)

    @functools.cache
    def edited(name: str) -> script_runner.Script:
        found = original(name)
        if name not in edits:
            return found
        text = edits[name](found.text)
        return script_runner.Script(
            text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        )

    vars(script_runner)["script"] = edited  # before others import it by name


def _replaced(text: str, old: str, new: str) -> str:
    if old not in text:
        raise SystemExit(f"the planted bug must be repaired: a script has no {old!r} any more")
    return text.replace(old, new)


def plant(name: str) -> None:
    """Put the bug into this process, and into the zygotes that it starts."""
    PLANTED[name].plant()
    from workers.launch import zygote_messages

    first = f"from tests.chaos.planted import plant; plant({name!r}); "
    if not zygote_messages.COMMAND.startswith(first):
        zygote_messages.COMMAND = first + zygote_messages.COMMAND


def main(argv: Sequence[str]) -> int:
    if list(argv) == ["--list"]:
        for name, planted in PLANTED.items():
            print(name, ",".join(planted.faults), planted.invariant)
        return 0
    name, *rest = argv or [""]
    if name not in PLANTED or rest[:2] != ["--", "muster"]:
        print(f"use: python -m tests.chaos.planted {{{','.join(PLANTED)}}} -- muster ROLE …")
        return 2
    arguments = rest[2:]
    plant(name)
    from muster.__main__ import main as muster

    return muster(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
