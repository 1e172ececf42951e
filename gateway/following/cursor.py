"""Where a client of the event stream is: an opaque text, which each event carries as its id."""

import base64
import re
import zlib
from typing import Final

from gateway.wire.problems import Kind, Problem
from projector.queries.views import id_order

COMPRESS_CURSOR_BYTES = 4096
"""A cursor of so many bytes is compressed, to about a quarter: a header may have 8,190."""
CURSOR_MAX = 1024 * 1024
"""Bytes, once it is decompressed."""
_COMPRESSION_LEVEL: Final = 1
_ZLIB_HEADER: Final = b"\x78\x01"
"""How zlib's output starts at this level; no name of a pool starts so."""
_STREAM_ID: Final = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_NAME: Final = re.compile(r"[a-z0-9_-]{0,63}")


class Cursor:
    """A client's position in each log that it follows.

    The log that was advanced last is at the end of its text: what is before it stays the same while
    events of that log follow each other, and is made, and compressed, once.
    """

    def __init__(self, positions: dict[str, str]) -> None:
        self.positions = positions
        self._last = ""
        self._before: bytes | None = None
        self._compressed: tuple[bytes, zlib._Compress] | None = None

    def advance(self, pool: str, stream_id: str) -> None:
        """The position in one log, after an event was sent."""
        if pool != self._last:
            self.positions.pop(pool, None)
            self._last, self._before = pool, None
        self.positions[pool] = stream_id

    def __str__(self) -> str:
        if self._before is None or self._last not in self.positions:
            if self._last not in self.positions:
                self._last = next(iter(self.positions))
            others = (f"{pool}={at}" for pool, at in self.positions.items() if pool != self._last)
            self._before = ",".join((*others, "")).encode()
            self._compressed = None
        last = f"{self._last}={self.positions[self._last]}".encode()
        text = self._before + last
        if len(text) >= COMPRESS_CURSOR_BYTES:
            text = self._compress(self._before, last)
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    def _compress(self, before: bytes, last: bytes) -> bytes:
        if self._compressed is None:
            compressor = zlib.compressobj(_COMPRESSION_LEVEL)
            self._compressed = compressor.compress(before), compressor
        start, compressor = self._compressed
        rest = compressor.copy()
        return start + rest.compress(last) + rest.flush()

    @classmethod
    def parse(cls, text: str, field: str = "Last-Event-ID") -> "Cursor":
        """Raises `Problem`, which names the field, if the text is no cursor of this API."""
        try:
            padded = text + "=" * (-len(text) % 4)
            content = base64.b64decode(padded, altchars=b"-_", validate=True)
            if content.startswith(_ZLIB_HEADER):
                decompressor = zlib.decompressobj()
                content = decompressor.decompress(content, CURSOR_MAX)
                if not decompressor.eof:
                    raise ValueError("cut off, or too large")
            positions = dict(pair.split("=", 1) for pair in content.decode().split(","))
            for pool, stream_id in positions.items():
                if not (_NAME.fullmatch(pool) and _STREAM_ID.fullmatch(stream_id)):
                    raise ValueError("no name of a pool, or no id of a stream")
        except (ValueError, zlib.error) as error:
            detail = "the position to resume from is not one of this service"
            raise Problem(Kind.INVALID_REQUEST, detail, field=field) from error
        return cls(positions)

    def covers(self, pool: str, stream_id: str) -> bool:
        """Whether this event was sent already."""
        return id_order(stream_id) <= id_order(self.positions.get(pool, "0"))
