"""Descriptors 1 and 2 of a worker: what comes by these is in its log, too.

A library in C, `os.write(1, …)`, a child process and the interpreter's last words do not pass
`sys.stdout`. So from its fork on these descriptors of a worker are pipes, which its output reads.
The process that forked it has their other ends, too: it reads what a worker that died has not.
"""

import contextlib
import ctypes
import faulthandler
import os
from collections.abc import Iterator
from typing import Final

from workers.output.lines import Output
from workers.output.pump import PIPE_BYTES

STREAMS: Final = {1: "stdout", 2: "stderr"}
REMAINS_MAX: Final = 1 << 22
"""Bytes that are read of what a worker left."""
LINE_BUFFERED: Final = 1
"""`_IOLBF`, from stdio.h."""


class StandardPipes:
    """To be made before the fork of a worker."""

    def __init__(self) -> None:
        self.read_ends: dict[int, int] = {}
        self._write_ends: dict[int, int] = {}

    def make(self) -> None:
        """Raises `OSError` where no more files can be opened; then, too, they are to be closed."""
        for number in STREAMS:
            self.read_ends[number], self._write_ends[number] = os.pipe()
            os.set_blocking(self.read_ends[number], False)

    def enter(self) -> None:
        """In the worker."""
        for number, end in self._write_ends.items():
            os.dup2(end, number)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            faulthandler.enable(2)
            library = ctypes.CDLL(None)  # printf in a pipe would wait for 4 KB
            library.setvbuf(ctypes.c_void_p.in_dll(library, "stdout"), None, LINE_BUFFERED, 0)

    def left(self) -> None:
        """In the process that forked it."""
        while self._write_ends:
            os.close(self._write_ends.popitem()[1])

    def put_back(self) -> Iterator[str]:
        """Replace again the descriptors that code of an agent has replaced or closed."""
        faulthandler.enable(2)  # an agent may have named a descriptor that ended with it
        for number, end in self._write_ends.items():
            try:
                replaced = os.fstat(number).st_ino != os.fstat(end).st_ino
            except OSError:
                replaced = True
            if replaced:
                os.dup2(end, number)
                yield f"descriptor {number}"

    def save_remains(self, output: Output) -> None:
        """Write what a worker that has ended left in its pipes."""
        output.pump.forget()  # no thread, where workers are forked from
        for number, end in self.read_ends.items():
            size, printed = 0, output.printed(output.printer, STREAMS[number])
            with contextlib.suppress(BlockingIOError):
                while size < REMAINS_MAX and (data := os.read(end, PIPE_BYTES)):
                    printed.add_bytes(data)
                    size += len(data)
        output.close()

    def close(self) -> None:
        for end in (*self.read_ends.values(), *self._write_ends.values()):
            os.close(end)
