"""The stream of alerts, and who writes it: one gateway at a time.

Its keys are in a slot of their own and belong to no pool, so that alerts can be written while the
log of a pool, or the catalogue, is halted. The scripts check that the writer still leads; what is
opened and closed is decided in Python (`gateway/alerts`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import msgspec
from msgspec import Struct

from eventstore.connection.calls import AsyncClient, ask, pairs_of, translated_errors
from eventstore.connection.denials import denied_in_script
from eventstore.connection.reply_parser import Argument
from eventstore.errors import LogError, UnknownEvent
from eventstore.keys import Keys
from eventstore.language.alerts import AlertBody, AlertEvent, decode_entry
from eventstore.log.reader import Entry
from eventstore.log.script_runner import Script
from eventstore.redis_errors import NoScriptError, ResponseError

READING: Final = "alerts cannot be read"
WRITING: Final = "alerts cannot be written"


class Lead(Struct, frozen=True):
    """Who leads, and what is known in common. `open` is by alert id, `reports` by gateway."""

    who: str
    term: int
    renewal: int
    open: dict[str, bytes]
    reports: dict[str, bytes]


class Change(Struct, frozen=True):
    """One alert. `state`: what is known of it, empty once it is closed; `body`: its event."""

    alert_id: str
    state: bytes
    event_id: str = ""
    body: AlertBody | None = None


class AlertLog:
    """On behalf of one gateway, `who`. All methods raise `LogUnreachable` and `LogError`."""

    def __init__(self, client: AsyncClient, keys: Keys, who: str = "") -> None:
        self._client, self.who = client, who
        self._stream = keys.alerts
        self._meta, self._open, self._reports = map(keys.alerts_part, ("meta", "open", "reports"))

    async def lead(
        self,
        term: int,
        *,
        stale: Lead | None = None,
        report: bytes = b"",
        report_ms: int = 60_000,
        ends: bool = False,
    ) -> Lead:
        """Acquire, renew, read or (`ends`) release the lead.

        `stale`: a leader that has not renewed for a whole lease. `report`: what this gateway
        observes that others cannot; it is known to all for `report_ms`.
        """
        expected: tuple[Argument, ...] = (stale.term, stale.renewal) if stale else ("", "")
        keys = (self._meta, self._open, self._reports)
        last = "1" if ends else ""
        reply = await self._run(
            "lead_alerts", keys, self.who, term, *expected, report, report_ms, last
        )
        who, now_term, renewal, opened, reports = reply
        return Lead(
            who.decode(), int(now_term), int(renewal), _texts_of(opened), _texts_of(reports)
        )

    async def write(self, term: int, call_id: str, changes: Iterable[Change]) -> bool:
        """Write changes; False where another leads. The same call again does nothing."""
        arguments: list[Argument] = []
        for one in changes:
            event: tuple[Argument, ...] = ("", "", "", "")
            if one.body is not None:
                body = one.body
                event = (body.type, body.version, one.event_id, msgspec.json.encode(body))
            arguments += (one.alert_id, one.state, *event)
        keys = (self._meta, self._open, self._stream)
        return bool(await self._run("write_alerts", keys, self.who, term, call_id, *arguments))

    async def open_ids(self) -> set[str]:
        """The ids of the open alerts."""
        found = await ask(self._client, "HKEYS", self._open, doing=READING)
        return {one.decode() for one in found}

    async def after(self, stream_id: str, *, count: int) -> list[Entry]:
        """The next entries after an id."""
        first = "-" if stream_id in ("", "0") else f"({stream_id}"
        command = ("XRANGE", self._stream, first, "+", "COUNT", count)
        entries: list[Entry] = await ask(self._client, *command, doing=READING)
        return entries

    async def last_id(self) -> str:
        """The id of the last entry; `0-0` if there is none."""
        command = ("XREVRANGE", self._stream, "+", "-", "COUNT", 1)
        entries = await ask(self._client, *command, doing=READING)
        return str(entries[0][0].decode()) if entries else "0-0"

    async def trim(self, before: str) -> None:
        """Remove the entries before this id."""
        await ask(self._client, "XTRIM", self._stream, "MINID", before, doing=WRITING)

    async def _run(self, name: str, keys: tuple[str, str, str], *arguments: Argument) -> Any:
        source, client = _script(name), self._client
        with translated_errors(WRITING):
            try:
                try:
                    return await client.execute_command(
                        "EVALSHA", source.digest, 3, *keys, *arguments
                    )
                except NoScriptError:
                    return await client.execute_command("EVAL", source.text, 3, *keys, *arguments)
            except ResponseError as error:
                if denied := denied_in_script(error, keys):
                    raise LogError(f"{WRITING}: {denied}") from error
                raise


def readable(entries: Sequence[Entry]) -> list[AlertEvent]:
    """Those that this version can read: others are no loss to anything but the list of alerts."""
    found = []
    for entry in entries:
        try:
            found.append(decode_entry(*entry))
        except UnknownEvent:
            continue
    return found


def _texts_of(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {name.decode(): value for name, value in pairs_of(flat)}


@cache
def _script(name: str) -> Script:
    body = (files("eventstore.log") / "lua" / f"{name}.lua").read_text(encoding="utf-8")
    text = f"#!lua flags=allow-oom\n{body}"
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
