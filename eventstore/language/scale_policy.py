"""What a pool's settings say about its size: the rules of `scaling.decide_scale`."""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from eventstore.language.schedules import Schedule

Share = Annotated[float, Meta(ge=0, le=1)]
PRESET_PATTERN: Final = r"^(reactive|proactive)$(?!\n)"
Preset = Annotated[str, Meta(pattern=PRESET_PATTERN)]
FORECAST_PATTERN: Final = r"^(off|on|only)$(?!\n)"
BUFFER_PATTERN: Final = r"^[0-9]{1,3}%$(?!\n)"


class BehaviourSettings(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How calmly the number of workers changes in one direction; None: as the preset has it."""

    window_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] | None = None
    tolerance: Share | None = None
    workers_per_minute: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    percent_per_minute: Annotated[float, Meta(ge=0, le=1_000_000)] | None = None


class Behaviour(Struct, frozen=True, kw_only=True):
    """How calmly the number of workers changes in one direction."""

    window_seconds: float = 0.0
    """A change is made that every observation of so long has called for."""
    tolerance: float = 0.0
    """A change by a smaller share of the workers is not made; a quarter of a larger one is left."""
    workers_per_minute: int = 0
    """0: no limit. If both are set, the one that allows more counts."""
    percent_per_minute: float = 0.0

    def with_settings(self, settings: BehaviourSettings) -> "Behaviour":
        given = {name: value for name, value in asdict(settings).items() if value is not None}
        return replace(self, **given)


class ScalePolicy(Struct, frozen=True, kw_only=True):
    """The rules of a pool's size."""

    slots: int = 10
    """Of a worker."""
    min_workers: int = 0
    max_workers: int = 100
    target_utilisation: float = 1.0
    """The share of slots in use that is aimed at; above 0 to 1."""
    buffer_slots: int = 0
    buffer_share: float = 0.0
    """Free slots, as a number and as a share of the load."""
    service_level: float = 0.0
    """The share of spawns that find a free slot at once; 0: none is aimed at."""
    forecast: str = "off"
    """`on`: the growth that is expected counts; `only`: it is recorded."""
    schedules: tuple[Schedule, ...] = ()
    """More workers than `min_workers`, at times."""
    paused: bool = False
    """Whether nothing is changed, except that a deleted pool is emptied."""
    start_seconds: float = 5.0
    """How long the start of a worker takes, until one was measured."""
    up: Behaviour = Behaviour()
    down: Behaviour = Behaviour(window_seconds=300.0)

    @property
    def ahead_ms(self) -> int:
        """A restart that is due within so long is load: a worker would be stopped and started."""
        return int((self.start_seconds + self.down.window_seconds) * 1000)


PRESETS: Final[Mapping[str, ScalePolicy]] = {
    "reactive": ScalePolicy(),
    "proactive": ScalePolicy(
        service_level=0.995,
        forecast="on",
        down=Behaviour(window_seconds=300.0, tolerance=0.155),
    ),
}
