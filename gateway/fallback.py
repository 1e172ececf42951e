"""What a gateway answers while it serves a fallback, and what fallbacks could not hand over.

A fallback is a single process on a log of its own, because the real Redis did not answer when it
started. `muster up` fills in `Fallback`, and updates it when the real Redis answers again. What a
handover could not hand over is listed in a file until the operator removes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

FALLBACK_HEADER: Final = "Muster-Fallback"
"""On every answer of a gateway that serves a fallback."""
LISTED_MAX: Final = 3
"""So many failures are named in the alert; the file has all."""


class Fallback(Struct, kw_only=True):
    """A fallback that serves. Times are in milliseconds since 1970."""

    mode: str
    reason: str
    """Why the real Redis could not be reached."""
    primary: str
    """Its address, without a password."""
    since_ms: int
    primary_reachable_ms: int = 0
    """Since when the real one answers again; 0 if it does not."""

    @property
    def description(self) -> str:
        """For people."""
        text = f"fallback ({self.mode}): {self.primary} could not be reached at the start"
        again = ". It answers again: the next start hands over to it"
        return f"{text} ({self.reason}){again if self.primary_reachable_ms else ''}"


class HandoverFailure(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An agent (or pool) of a fallback that the real log does not have."""

    reason: str
    log_id: str = ""
    """Of the fallback."""
    pool_name: str = ""
    agent_id: str = ""
    project_id: str = ""
    role_type: str = ""

    @property
    def description(self) -> str:
        subject = f"agent {self.agent_id} of pool {self.pool_name!r}" if self.agent_id else (
            f"pool {self.pool_name!r}" if self.pool_name else "the handover"
        )  # fmt: skip
        return f"{subject}: {self.reason}"


class HandoverFailures(Struct, frozen=True, kw_only=True):
    """What handovers could not hand over, as the file has it."""

    since_ms: int
    left: Sequence[HandoverFailure]
    report: str
    """The folder of the latest one."""


def read_handover_failures(path: str) -> HandoverFailures | None:
    """The file's content; None if there is none. One that cannot be read is one failure."""
    if not path:
        return None
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=HandoverFailures)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        failure = HandoverFailure(reason=f"{path} cannot be read: {error}")
        return HandoverFailures(since_ms=0, left=(failure,), report="")
