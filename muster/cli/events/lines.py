"""An event as a line for people: time, position in the log, type, subject and details."""

from collections.abc import Callable

import msgspec

from muster.cli.events.recorded_event import RecordedEvent, number
from muster.terminal import render

DATA_MAX = 500
"""The number of characters shown of data that cannot be decoded."""
HIDDEN_FIELDS = {
    "at_ms", "config", "deadline_ms", "digest", "due_ms", "expires_ms", "heartbeat_interval",
    "input", "max_idle_time", "operation_id", "pending_timeout", "start_time", "window_ms",
}  # fmt: skip


def printer(*, as_json: bool) -> Callable[[RecordedEvent], None]:
    """A function that prints events as fits the output: JSON, plain or coloured."""
    if as_json:
        return lambda event: print(render.json_line(event.document()), flush=True)
    if not render.at_terminal():
        return lambda event: print(plain_line(event), flush=True)
    from rich.text import Text

    screen = render.console()

    def coloured(event: RecordedEvent) -> None:
        parts = [(cell.text, cell.style) for cell in _line(event, short=True)]
        screen.print(Text.assemble(*parts), soft_wrap=True)

    return coloured


def plain_line(event: RecordedEvent) -> str:
    """An event as a line of text, with full ids."""
    return "".join(cell.text for cell in _line(event, short=False)).rstrip()


def _line(event: RecordedEvent, *, short: bool) -> list[render.Cell]:
    fields = event.fields
    shorten = render.short_id if short else str
    kind = render.one_line(fields.get("type", "?"))
    subject = shorten(fields.get("subject", ""))
    worker = fields.get("worker_id", "")
    if worker and worker != fields.get("subject"):
        subject += f"  on {shorten(worker)}"
    if (incarnation := fields.get("incarnation", "")) not in ("", "0", "1"):
        subject += f"  #{incarnation}"
    return [
        render.Cell(f"{render.timestamp(number(fields.get('ts')) or event.ms)}  ", "dim"),
        render.Cell(f"{f'{event.pool}:{event.seq}':<20}  "),
        render.Cell(f"{kind:<27}  ", _style(kind)),
        render.Cell(f"{render.one_line(subject)}  "),
        render.Cell(render.one_line(_details(fields.get("data", ""))), "dim"),
    ]


def _style(kind: str) -> str:
    end = kind.partition(".")[2]
    if end in ("crashed", "start_failed", "unhealthy", "failed", "lost"):
        return "red"
    if end in ("suspect", "restarting", "termination_requested", "draining", "cordoned"):
        return "yellow"
    return "green" if end in ("started", "created", "joined", "recovered") else ""


def _details(data: str) -> str:
    """The body of an event, without fields that are only for machines."""
    try:
        body = msgspec.json.decode(data or "{}", type=dict[str, object])
    except (msgspec.MsgspecError, RecursionError):
        return data[:DATA_MAX]
    parts = [_detail(name, value) for name, value in body.items() if name not in HIDDEN_FIELDS]
    if isinstance(due := body.get("due_ms"), int):
        parts.append(f"again at {render.timestamp(due)}")
    return "  ".join(part for part in parts if part)


def _detail(name: str, value: object) -> str:
    if name == "error" and isinstance(value, dict):
        return f"{value.get('type')}: {str(value.get('message', ''))[:200]}"
    if name == "reason":
        return str(value)
    if isinstance(value, dict):
        value = ",".join(f"{key}={item}" for key, item in value.items())
    return f"{name}={value}" if value not in ("", None) else ""
