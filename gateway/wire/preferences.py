"""`Prefer` (RFC 7240): how long the client wants to wait for the outcome.

A preference may be ignored: one that cannot be read is skipped, one that is too long is shortened,
and `Preference-Applied` says what was done.
"""

from collections.abc import Sequence

from msgspec import Struct

from gateway.options import Limits


class WaitPreference(Struct, frozen=True):
    """Seconds to wait, and what `Preference-Applied` says."""

    seconds: float
    applied: str = ""
    explicit: bool = False
    """The client named the seconds."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Preference-Applied": self.applied} if self.applied else {}


def wait_preference(prefer: Sequence[str], limits: Limits) -> WaitPreference:
    """What the `Prefer` headers of a request say. The first of each preference counts."""
    preferences: dict[str, str] = {}
    for item in ",".join(prefer).split(","):
        name, _, value = item.split(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    if "respond-async" in preferences:
        return WaitPreference(0.0, "respond-async")
    wait = preferences.get("wait", "")
    if wait.isascii() and wait.isdigit() and len(wait) < 10:
        seconds = min(float(wait), limits.wait_max)
        return WaitPreference(seconds, f"wait={seconds:g}", explicit=seconds > 0)
    return WaitPreference(limits.wait_default)
