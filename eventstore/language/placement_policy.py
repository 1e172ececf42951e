"""What a pool's settings say about the placement of its agents: the rules of `placement.place`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Final

from msgspec import Meta, Struct

PULL: Final = "pull"
"""No placer: workers claim what waits."""
RESOURCE: Final = "resource"
STRATEGY_PATTERN: Final = r"^(pull|spread|pack|affinity|resource)$(?!\n)"
Strategy = Annotated[str, Meta(pattern=STRATEGY_PATTERN)]
PRIORITY_MAX: Final = 9
OTHERS: Final = "*"
"""In caps and weights: every project that is not named."""
PROJECT_PATTERN: Final = r"^([A-Za-z0-9._:-]{1,128}|\*)$(?!\n)"
ProjectKey = Annotated[str, Meta(pattern=PROJECT_PATTERN)]
Limit = Annotated[int, Meta(ge=0, le=1_000_000)]
Weight = Annotated[float, Meta(gt=0, le=1_000_000)]
EXPECTED_SECONDS_MAX: Final = 31_536_000
ExpectedSeconds = Annotated[float, Meta(gt=0, le=EXPECTED_SECONDS_MAX)]
ENTRIES_MAX: Final = 1_000
"""Of a table of caps or weights."""
PROJECT_CAP: Final = "project-cap"
LABEL_CAP: Final = "label-cap"
NEEDS_PLACER: Final = (
    "project_caps",
    "label_caps",
    "project_weights",
    "anti_affinity",
    "label_seconds",
)


class Cap(Struct, frozen=True):
    """A cap that holds agents back: PROJECT_CAP or LABEL_CAP, and of what."""

    kind: str
    of: str
    limit: int

    @property
    def reason(self) -> str:
        """What a waiting agent waits for."""
        if self.kind == PROJECT_CAP:
            return f"{self.kind}: at most {self.limit} of project {self.of} may run at a time"
        return f"{self.kind}: at most {self.limit} with the label {self.of} may run at a time"

    def holds(self, project_id: str, labels: Mapping[str, str]) -> bool:
        """Whether it holds back a waiting agent with these."""
        if self.kind == PROJECT_CAP:
            return project_id == self.of
        name, _, value = self.of.partition("=")
        return labels.get(name) == value


class PlacementPolicy(Struct, frozen=True, kw_only=True):
    """How a pool's agents are placed. `strategy` is `spread`, `pack`, `affinity` or `resource`."""

    strategy: str = "pack"
    project_caps: Mapping[str, int] = {}
    """How many agents of a project may be in slots."""
    label_caps: Mapping[str, int] = {}
    """The same of a label, `name=value`; of each value of a label, `name`."""
    project_weights: Mapping[str, float] = {}
    """Empty: projects do not count for the order."""
    anti_affinity: Sequence[str] = ()
    """Labels of which a worker should have no value twice."""
    label_seconds: Mapping[str, float] = {}
    """How long agents with a label, `name=value`, are expected to live."""

    @property
    def has_caps(self) -> bool:
        return bool(self.project_caps or self.label_caps)
