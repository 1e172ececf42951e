"""`Prefer` (RFC 7240): how long the caller wants to wait for the outcome.

A preference is a wish: what cannot be read is passed over, what is too long is cut, and
`Preference-Applied` says what was done.
"""

from collections.abc import Sequence

from msgspec import Struct

from gateway.options import Limits


class WaitPreference(Struct, frozen=True):
    """Seconds to wait, and what to say of it."""

    seconds: float
    applied: str = ""
    explicit: bool = False
    """The caller said for how long it wants to wait."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Preference-Applied": self.applied} if self.applied else {}


def wait_preference(prefer: Sequence[str], limits: Limits) -> WaitPreference:
    """What the `Prefer` headers of a request ask for. The first of each preference counts."""
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
