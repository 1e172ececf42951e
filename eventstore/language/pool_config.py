"""The settings of a pool, and their JSON form."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from eventstore.language.consolidation import MovePolicy
from eventstore.language.placement_policy import (
    ENTRIES_MAX,
    NEEDS_PLACER,
    PROJECT_PATTERN,
    PULL,
    STRATEGY_PATTERN,
    ExpectedSeconds,
    Limit,
    PlacementPolicy,
    ProjectKey,
    Strategy,
    Weight,
)
from eventstore.language.restart_policy import RestartPolicy
from eventstore.language.scale_policy import (
    BUFFER_PATTERN,
    FORECAST_PATTERN,
    PRESET_PATTERN,
    PRESETS,
    BehaviourSettings,
    Preset,
    ScalePolicy,
)
from eventstore.language.schedules import Schedule

Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
LEVEL_PATTERN = r"^(debug|info|warning|error|critical|DEBUG|INFO|WARNING|ERROR|CRITICAL)$(?!\n)"
CONSOLIDATE_PATTERN: Final = r"^(off|auto)$(?!\n)"
LOGGER_PATTERN = r"^[A-Za-z0-9_.-]{1,128}$(?!\n)"
LogLevel = Annotated[str, Meta(pattern=LEVEL_PATTERN)]
LoggerName = Annotated[str, Meta(pattern=LOGGER_PATTERN)]
POLICY_PATTERN: Final = r"^[A-Za-z0-9._-]{1,64}$(?!\n)"
PolicyName = Annotated[str, Meta(pattern=POLICY_PATTERN)]
LABEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}"
LABEL_VALUE = r"[^\x00-\x1f\x7f]{0,256}"
LABELS_MAX = 16
LABEL_PAIR_PATTERN = rf"^{LABEL_NAME}={LABEL_VALUE}$(?!\n)"
LABEL_KEY_PATTERN = rf"^{LABEL_NAME}(={LABEL_VALUE})?$(?!\n)"
PATTERN_WORDS: Final[Mapping[str, str]] = {
    PRESET_PATTERN: "reactive or proactive",
    CONSOLIDATE_PATTERN: "off or auto",
    BUFFER_PATTERN: "a number of slots, or a share of the load such as 10%",
    FORECAST_PATTERN: "off, on or only",
    LEVEL_PATTERN: "debug, info, warning, error or critical",
    POLICY_PATTERN: "a name of 1 to 64 letters, digits, dots, _ or -",
    LOGGER_PATTERN: "1 to 128 letters, digits, dots, _ or -",
    STRATEGY_PATTERN: "pull, spread, pack, affinity or resource",
    PROJECT_PATTERN: "a project, or * for every other one",
    LABEL_PAIR_PATTERN: "a label as name=value",
    LABEL_KEY_PATTERN: "a label as name=value, or its name for each of its values",
}
"""What the pattern of a setting expects."""
LabelName = Annotated[str, Meta(pattern=rf"^{LABEL_NAME}$(?!\n)")]
LabelValue = Annotated[str, Meta(pattern=rf"^{LABEL_VALUE}$(?!\n)")]
LabelPair = Annotated[str, Meta(pattern=LABEL_PAIR_PATTERN)]
LabelKey = Annotated[str, Meta(pattern=LABEL_KEY_PATTERN)]
Count = Annotated[int, Meta(ge=0, le=10_000)]
SHADOWS_MAX: Final = 4
OF_POOL: Final = ("agents_per_worker", "min_workers", "max_workers")
"""Of these settings those of the pool count where another policy does not have them."""
NEVER = "never"
"""May be written for a `max_idle_time` of 0."""
ORDERED = (("min_workers", "max_workers"), ("backoff_min_seconds", "backoff_max_seconds"))
"""Of these settings the first must not be above the second."""


class PoolConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of a pool. Times are in seconds."""

    agents_per_worker: Annotated[int, Meta(ge=1, le=1_000)] = 10
    threads_per_agent: Annotated[int, Meta(ge=1, le=1_000)] = 8
    min_workers: Count = 0
    max_workers: Annotated[int, Meta(ge=1, le=10_000)] = 100
    preset: Preset | None = None
    target_utilisation: Annotated[float, Meta(ge=0.05, le=1)] | None = None
    buffer: (
        Annotated[int, Meta(ge=0, le=10_000)] | Annotated[str, Meta(pattern=BUFFER_PATTERN)] | None
    ) = None
    service_level: Annotated[float, Meta(ge=0, le=0.9999)] | None = None
    forecast: Annotated[str, Meta(pattern=FORECAST_PATTERN)] | None = None
    paused: Annotated[str, Meta(min_length=1, max_length=512)] | None = None
    """Why workers are neither added nor removed; None: they are."""
    schedules: Annotated[tuple[Schedule, ...], Meta(max_length=64)] | None = None
    up: BehaviourSettings | None = None
    down: BehaviourSettings | None = None
    shadow: Annotated[dict[PolicyName, dict[str, Any]], Meta(max_length=SHADOWS_MAX)] | None = None
    """Other policies, by name: what they would decide is recorded."""
    placement: Strategy | None = None
    """How agents get their workers; None: `pull`."""
    project_caps: Annotated[dict[ProjectKey, Limit], Meta(max_length=ENTRIES_MAX)] | None = None
    label_caps: Annotated[dict[LabelKey, Limit], Meta(max_length=ENTRIES_MAX)] | None = None
    project_weights: Annotated[dict[ProjectKey, Weight], Meta(max_length=ENTRIES_MAX)] | None = None
    anti_affinity: Annotated[tuple[LabelName, ...], Meta(max_length=LABELS_MAX)] | None = None
    label_seconds: (
        Annotated[dict[LabelPair, ExpectedSeconds], Meta(max_length=ENTRIES_MAX)] | None
    ) = None
    consolidate: Annotated[str, Meta(pattern=CONSOLIDATE_PATTERN)] | None = None
    """Whether agents are moved so that fewer workers are needed; None: `off`."""
    moves_per_minute: Annotated[int, Meta(ge=1, le=1_000)] | None = None
    moves_per_agent_hour: Annotated[int, Meta(ge=1, le=100)] | None = None
    empty_worker_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 300.0
    """`down.window_seconds`, where that is not set."""
    backlog_limit: Annotated[int, Meta(ge=1, le=10_000_000)] = 10_000
    restart_limit: Annotated[int, Meta(ge=0, le=100)] | None = None
    start_limit: Annotated[int, Meta(ge=0, le=100)] = 5
    restart_window_seconds: Seconds = 600.0
    backoff_min_seconds: Seconds = 1.0
    backoff_max_seconds: Seconds = 300.0
    start_timeout_seconds: Seconds = 60.0
    stop_grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] = 10.0
    drain_seconds: Seconds = 25.0
    launch_seconds: Seconds = 30.0
    lease_seconds: Annotated[float, Meta(ge=1, le=600)] = 10.0
    renew_seconds: Annotated[float, Meta(ge=0.1, le=200)] = 3.0
    loop_stall_seconds: Annotated[float, Meta(ge=1, le=3_600)] = 30.0
    suspicion_window_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 600.0
    memory_max_mb: Annotated[int, Meta(ge=0, le=10_000_000)] = 0
    max_worker_age_seconds: Annotated[float, Meta(ge=0, le=31_536_000)] = 0.0
    max_alone_workers: Annotated[int, Meta(ge=1, le=10_000)] = 10
    log_levels: Annotated[dict[LoggerName, LogLevel], Meta(max_length=64)] = {}
    log_lines_per_second: Annotated[float, Meta(ge=0, le=1_000_000)] = 100.0
    log_bytes_per_second: Annotated[float, Meta(ge=1_000, le=1_000_000_000)] = 20_000.0
    log_burst_seconds: Annotated[float, Meta(ge=1, le=3_600)] = 50.0
    heartbeat_interval: Seconds = 30.0
    """This and the next three: of agents whose spawn does not say it."""
    max_idle_time: Annotated[float, Meta(ge=0, le=31_536_000)] = 300.0
    """0: never."""
    expected_seconds: ExpectedSeconds | None = None
    """How long they are expected to live; None: not known."""
    labels: Annotated[dict[LabelName, LabelValue], Meta(max_length=LABELS_MAX)] = {}

    def __post_init__(self) -> None:
        for low, high in ORDERED:
            below, above = getattr(self, low), getattr(self, high)
            if below > above:
                raise ValueError(f"{low} ({below:g}) must not be above {high} ({above:g})")
        for schedule in self.schedules or ():
            if schedule.min_workers > self.max_workers:
                raise ValueError(
                    f"min_workers ({schedule.min_workers}) of a schedule must not be above"
                    f" max_workers ({self.max_workers})"
                )
        needing = [name for name in NEEDS_PLACER if getattr(self, name)]
        if needing and self.placement_policy is None:
            raise ValueError(
                f"{' and '.join(needing)} need a placer: set placement to spread, pack, affinity"
                " or resource"
            )
        if self.renew_seconds * 2 > self.lease_seconds:
            raise ValueError(
                f"renew_seconds ({self.renew_seconds:g}) must be at most half of lease_seconds"
                f" ({self.lease_seconds:g})"
            )
        for name, settings in (self.shadow or {}).items():
            try:
                policy_of(settings, self)
            except msgspec.ValidationError as error:
                what = in_words(error).replace(" - at `$.", ", in `")
                raise ValueError(f"shadow {name}: {what}") from None

    @property
    def shadow_policies(self) -> dict[str, ScalePolicy]:
        """The policies of `shadow`, by name."""
        shadow = self.shadow or {}
        return {name: policy_of(settings, self).scale_policy for name, settings in shadow.items()}

    @property
    def scale_policy(self) -> ScalePolicy:
        policy = PRESETS[self.preset or "reactive"]
        share, slots = 0.0, self.buffer or 0
        if isinstance(slots, str):
            share, slots = int(slots[:-1]) / 100, 0
        if (target := self.target_utilisation) is None:
            target = policy.target_utilisation
        if (service_level := self.service_level) is None:
            service_level = policy.service_level
        down = replace(policy.down, window_seconds=self.empty_worker_seconds)
        return replace(
            policy,
            slots=self.agents_per_worker,
            min_workers=self.min_workers,
            max_workers=self.max_workers,
            target_utilisation=target,
            buffer_slots=slots,
            buffer_share=share,
            service_level=service_level,
            forecast=self.forecast or policy.forecast,
            schedules=self.schedules or (),
            paused=self.paused is not None,
            up=policy.up.with_settings(self.up or BehaviourSettings()),
            down=down.with_settings(self.down or BehaviourSettings()),
        )

    @property
    def placement_policy(self) -> PlacementPolicy | None:
        """None: workers claim what waits."""
        if (self.placement or PULL) == PULL:
            return None
        return PlacementPolicy(
            strategy=self.placement or PULL,
            project_caps=self.project_caps or {},
            label_caps=self.label_caps or {},
            project_weights=self.project_weights or {},
            anti_affinity=self.anti_affinity or (),
            label_seconds=self.label_seconds or {},
        )

    @property
    def move_policy(self) -> MovePolicy:
        usual = MovePolicy()
        return MovePolicy(
            per_minute=self.moves_per_minute or usual.per_minute,
            per_agent_hour=self.moves_per_agent_hour or usual.per_agent_hour,
        )

    @property
    def wants_forecast(self) -> bool:
        """Whether its policy, or one that it is compared with, uses a forecast."""
        policies = (self.scale_policy, *self.shadow_policies.values())
        return any(policy.forecast != "off" for policy in policies)

    @property
    def restart_policy(self) -> RestartPolicy:
        return RestartPolicy(
            limit=self.restart_limit,
            start_limit=self.start_limit,
            window_ms=int(self.restart_window_seconds * 1000),
            backoff_min_ms=int(self.backoff_min_seconds * 1000),
            backoff_max_ms=int(self.backoff_max_seconds * 1000),
        )

    @property
    def isolation_limit(self) -> int:
        """How many workers may run one isolated agent each: half of them, but at least one."""
        return min(self.max_alone_workers, max(self.max_workers // 2, 1))

    @property
    def isolation_seconds(self) -> float:
        """How long an isolated agent must run without harm.

        It is the suspicion window if all agents of one worker may be isolated at the same time. If
        fewer may be, it is shorter, at least a tenth, so that all can be tried within the window.
        """
        part = min(max(self.isolation_limit / self.agents_per_worker, 0.1), 1.0)
        return self.suspicion_window_seconds * part


EARLIER_DEFAULTS: Final[Mapping[str, object]] = {"restart_limit": 5, "backoff_max_seconds": 60.0}
"""Of versions without `start_limit`. They recorded defaults like settings, so that these count as
not set."""

SPAWN_DEFAULTS = ("heartbeat_interval", "max_idle_time", "expected_seconds", "labels")
"""The settings that a role may have, too."""


def override(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, as people write them, over others; to be converted to a `PoolConfig`."""
    found = {**base, **settings}
    return {**found, "max_idle_time": 0.0} if found.get("max_idle_time") == NEVER else found


def policy_of(settings: Mapping[str, Any], pool: PoolConfig) -> PoolConfig:
    """Another policy for a pool, as people write it. Raises `msgspec.ValidationError`."""
    if "shadow" in settings:
        raise msgspec.ValidationError("a policy that is compared cannot have `shadow`")
    of_pool = {name: getattr(pool, name) for name in OF_POOL}
    return msgspec.convert(override(of_pool, settings), PoolConfig)


def in_words(error: msgspec.ValidationError) -> str:
    """An error of a setting, with words instead of patterns."""
    text = str(error)
    for pattern, words in PATTERN_WORDS.items():
        text = text.replace(f"Expected `str` matching regex {pattern!r}", f"expected {words}")
    return text


def read_config(raw: msgspec.Raw | bytes) -> tuple[PoolConfig, dict[str, object]]:
    """Decode a recorded configuration; settings of a newer version are returned separately."""
    known = set(PoolConfig.__struct_fields__)
    fields = msgspec.json.decode(raw, type=dict[str, object])
    for name in earlier_defaults(raw):
        del fields[name]
    shadow = fields.get("shadow")
    if isinstance(shadow, dict) and any(set(policy) - known for policy in shadow.values()):
        known.discard("shadow")  # a policy of a newer version cannot be tried here
    unknown = {name: fields.pop(name) for name in fields.keys() - known}
    return msgspec.convert(fields, PoolConfig), dict(sorted(unknown.items()))


def earlier_defaults(raw: msgspec.Raw | bytes) -> tuple[str, ...]:
    """Which recorded settings have a default of an earlier version, and count as not set."""
    fields = msgspec.json.decode(raw, type=dict[str, object])
    if "start_limit" in fields:
        return ()
    return tuple(name for name, value in EARLIER_DEFAULTS.items() if fields.get(name) == value)


def write_config(config: PoolConfig, unknown: Mapping[str, object] | None = None) -> msgspec.Raw:
    """Encode a configuration. None is left out, which an earlier version cannot read."""
    fields: dict[str, object] = msgspec.to_builtins(config)
    recorded = {name: value for name, value in fields.items() if value is not None}
    return msgspec.Raw(msgspec.json.encode({**recorded, **(unknown or {})}))
