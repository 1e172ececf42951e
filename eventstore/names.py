"""Names that do not exist, and which one was probably meant."""

from collections.abc import Collection
from difflib import get_close_matches

SIMILARITY_MIN = 0.6
LISTED_MAX = 12
"""So many names are listed where none is similar."""


def unknown_name(kind: str, name: str, known: Collection[str] = ()) -> str:
    """A message such as "no pool `a_pol`; did you mean `a_pool`?"; `known`: the names there are."""
    folded = {one.lower(): one for one in known}
    message = f"no {kind} `{name}`"
    if close := get_close_matches(name.lower(), folded, n=1, cutoff=SIMILARITY_MIN):
        return f"{message}; did you mean `{folded[close[0]]}`?"
    if 0 < len(known) <= LISTED_MAX:
        return f"{message}; there are: {', '.join(sorted(known))}"
    return message
