"""Names that do not exist, and which one was probably meant."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches

SIMILARITY_MIN = 0.6
LISTED_MAX = 12
"""So many names are listed where none is similar."""


def similar_name(name: str, known: Collection[str]) -> str:
    """The most similar of the known names; empty if none is, or it is known itself."""
    if name in known:  # to someone else, by now, or at another time
        return ""
    folded = {one.lower(): one for one in known}
    close = get_close_matches(name.lower(), folded, n=1, cutoff=SIMILARITY_MIN)
    return folded[close[0]] if close else ""


def either(kinds: Sequence[str]) -> str:
    """`agent, worker or pool`."""
    *others, last = kinds
    return f"{', '.join(others)} or {last}" if others else last


def unknown_name(kind: str, name: str, known: Collection[str] = ()) -> str:
    """A message such as "no pool `a_pol`; did you mean `a_pool`?"; `known`: the names there are."""
    return f"no {kind} `{name}`{suggestion(name, known)}"


def suggestion(name: str, known: Collection[str]) -> str:
    """The end of a message about a name that does not exist: a similar one, or a few that do."""
    known = [one for one in known if one != name]
    if similar := similar_name(name, known):
        return f"; did you mean `{similar}`?"
    return f"; there are: {', '.join(sorted(known))}" if 0 < len(known) <= LISTED_MAX else ""
