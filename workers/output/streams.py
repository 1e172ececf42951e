"""What replaces `sys.stdout` and `sys.stderr`: streams as those of a pipe, for each agent its own.

Whatever works with the standard output of a process works with these: text, bytes, characters in
two parts, other encodings, the descriptor. Nothing is buffered here, so that output of one agent
never waits in a buffer of all. What one agent does to its stream (another encoding, closing it)
concerns its own output only.
"""

import codecs
import io
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, TextIO, cast

from workers.output.lines import CURRENT, Output, Owner

NEWLINES = (None, "", "\n", "\r", "\r\n")
_KEEP: Any = object()


class AgentStream(io.TextIOWrapper):
    """`sys.stdout` or `sys.stderr`. What no agent writes goes to `original` without an output."""

    def __init__(self, name: str, original: TextIO) -> None:
        self.stream = name
        self.original = original
        self.output: Output | None = None
        """Gets what no agent writes."""
        raw = AgentBytes(self)
        super().__init__(AgentBuffer(raw), "utf-8", "backslashreplace", write_through=True)

    def write(self, text: str, /) -> int:
        owner = self.owner()
        if owner is None or owner.output is None:
            return self.original.write(text)
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        shown = text
        if owner.own and (encoding := owner.own.get((self, "encoding"))):
            encoded = text.encode(encoding, self.errors)  # raises what it would raise elsewhere
            shown = encoded.decode(encoding, "backslashreplace")
        owner.output.printed(owner, self.stream).add(shown)
        return len(text)

    def write_bytes(self, data: bytes) -> None:
        owner = self.owner()
        if owner is None or owner.output is None:
            self.original.buffer.write(data)
        elif (encoding := self.encoding) != "utf-8":
            text = data.decode(encoding, "backslashreplace")
            owner.output.printed(owner, self.stream).add(text)
        else:
            owner.output.printed(owner, self.stream).add_bytes(data)

    def flush(self) -> None:
        owner = self.owner()
        if owner is None or owner.output is None:
            self.original.flush()
        elif self.stream in owner.printed:
            owner.printed[self.stream].flush_soon()

    def __setattr__(self, name: str, value: Any) -> None:
        """An agent that replaces a method of it gets an object of its own."""
        target = TARGETS.get(vars(self).get("stream", ""))
        if CURRENT.get() is None or target is None:
            super().__setattr__(name, value)
        else:
            present: Any = target.current()
            changed = present if isinstance(present, ChangedStream) else ChangedStream(self)
            vars(changed)[name] = value
            target.assign(changed)

    def owner(self) -> Owner | None:
        """Whose output this is, if it goes to a log file."""
        return CURRENT.get() or (self.output.printer if self.output else None)

    def fileno(self) -> int:
        """Of an agent in a worker's own process: its own, which it may close or replace."""
        owner = CURRENT.get()
        if self.output is None or owner is None or owner.output is None:
            return self.original.fileno()
        return owner.output.descriptor(owner, self.stream)

    def reconfigure(
        self,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = _KEEP,
        **_buffering: bool | None,
    ) -> None:
        """For one agent. Lines end as they do, and nothing waits in a buffer, whatever is said."""
        if newline is not _KEEP and newline not in NEWLINES:
            raise ValueError(f"illegal newline value: {newline!r}")
        if encoding is not None:
            encoding = codecs.lookup(encoding).name
        if errors is not None:
            codecs.lookup_error(errors)
        owner = self.owner()
        if owner is not None and (encoding or errors):
            # As elsewhere: another encoding without errors is a strict one.
            own = owner.own
            own[self, "errors"] = errors or (own.get((self, "errors")) if not encoding else None)
            own[self, "errors"] = own[self, "errors"] or "strict"
            own[self, "encoding"] = encoding or self.encoding

    def detach(self) -> "AgentBuffer":
        """The stream below. This one remains: it is its neighbours' too."""
        return cast("AgentBuffer", self.buffer)

    def close(self) -> None:
        """Only flush: it is its neighbours' too."""
        self.flush()

    def _configured(self, what: str, default: str) -> str:
        owner = self.owner()
        return str(owner.own.get((self, what), default)) if owner and owner.own else default

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._configured("encoding", "utf-8")

    @property
    def errors(self) -> str:  # type: ignore[override]
        return self._configured("errors", "backslashreplace")

    mode = "w"


class ChangedStream:
    """A stream of which an agent has replaced some methods or attributes."""

    def __init__(self, stream: AgentStream) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class AgentBytes(io.RawIOBase):
    """The bytes below a stream, `sys.stdout.buffer.raw`."""

    mode = "wb"

    def __init__(self, stream: AgentStream) -> None:
        self._stream = stream
        self.name = f"<{stream.stream}>"

    def write(self, data: Any, /) -> int:
        content = bytes(memoryview(data).cast("B")) if not isinstance(data, bytes) else data
        self._stream.write_bytes(content)
        return len(content)

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """Stays open, as the stream does."""


class AgentBuffer(io.BufferedWriter):
    """`sys.stdout.buffer`, which has nothing to wait for."""

    __slots__ = ()
    raw: AgentBytes

    def write(self, data: Any, /) -> int:
        return self.raw.write(data)

    def flush(self) -> None:
        self.raw._stream.flush()

    def detach(self) -> AgentBytes:
        return self.raw

    def close(self) -> None:
        self.flush()


class PrintTarget:
    """What `print` writes to: the stream, or what an agent has set `sys.stdout` to."""

    def __init__(self, base: AgentStream) -> None:
        self.base = base
        self.assigned: TextIO | None = base
        """What code of no agent has set it to."""

    def current(self) -> TextIO | None:
        owner = CURRENT.get()
        if owner is None:
            return self.assigned
        return owner.own.get(self, self.base) if owner.own else self.base

    def assign(self, value: Any) -> None:
        owner, value = CURRENT.get(), self.base if value is self else value
        if owner is None:
            self.assigned = value
        elif value is self.base:
            owner.own.pop(self, None)
        else:
            owner.own[self] = value

    def write(self, text: str) -> int:
        owner = CURRENT.get()
        if owner is not None and not owner.own and type(text) is str:  # the usual case
            printed = owner.printed.get(self.base.stream)
            if printed is not None:
                printed.add(text)
                return len(text)
        target = self.current()
        return target.write(text) if target is not None else len(text)

    def flush(self) -> None:
        if (target := self.current()) is not None:
            target.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.current(), name)


def _own_stream(name: str) -> property:
    return property(lambda _: TARGETS[name].current(), lambda _, value: TARGETS[name].assign(value))


class StandardStreams(ModuleType):
    """The class of `sys` while output is captured: each agent has its own `stdout` and `stderr`.

    `print` and the interpreter look into the module's dictionary, where the `PrintTarget` is.
    """

    stdout = _own_stream("stdout")
    stderr = _own_stream("stderr")


TARGETS: dict[str, PrintTarget] = {}


def install() -> None:
    """Replace both. A second call does nothing."""
    if not TARGETS:
        for name in ("stdout", "stderr"):
            target = PrintTarget(AgentStream(name, getattr(sys, name)))
            TARGETS[name] = sys.__dict__[name] = target
        sys.__class__ = StandardStreams


def restore() -> None:
    """Undo it; what code of no agent has set meanwhile stays."""
    sys.__class__ = ModuleType
    for name, target in TARGETS.items():
        base = target.base
        sys.__dict__[name] = base.original if target.assigned is base else target.assigned
    TARGETS.clear()


def is_standard(stream: object) -> bool:
    """Whether what is written there is standard output or error."""
    return stream is not None and any(
        stream in (target, target.base, target.base.original) for target in TARGETS.values()
    )


def put_back() -> Iterator[str]:
    """Replace again what other code has replaced past `sys.stdout`, and name it."""
    for name, target in TARGETS.items():
        if sys.__dict__.get(name) is not target:
            sys.__dict__[name] = target
            yield f"sys.{name}"
