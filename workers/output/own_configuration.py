"""What an agent configures for its whole process concerns only itself.

`logging`, structlog and `warnings` have one configuration for a process, which ten agents share. So
while output is captured, what an agent sets there is a value of its own: its neighbours, and the
agent's next incarnation, do not see it. What code of no agent sets, at import or in a role's
set-up, holds for all.
"""

import builtins
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import structlog

from workers.output.levels import Levels
from workers.output.lines import CURRENT

_ABSENT: Any = object()


class OwnValue:
    """An attribute of which each agent may have a value of its own, instead of the shared one."""

    def __init__(self, owner: type, name: str) -> None:
        self.name = name
        self.default = getattr(owner, name, _ABSENT)

    def __get__(self, instance: Any, kind: type | None = None) -> Any:
        agent = CURRENT.get()
        if agent is not None and agent.own and instance is not None:
            value = agent.own.get((instance, self.name), _ABSENT)
            if value is not _ABSENT:
                return value
        return self.shared(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        agent = CURRENT.get()
        if agent is None or (self.default is _ABSENT and self.name not in vars(instance)):
            vars(instance)[self.name] = value  # an object that is being made is everybody's
        else:
            agent.own[instance, self.name] = value

    def shared(self, instance: Any) -> Any:
        value = self.default if instance is None else vars(instance).get(self.name, self.default)
        if value is _ABSENT:
            raise AttributeError(self.name)
        return value


class OwnLevel(OwnValue):
    """One that decides whether a level is enabled, which loggers cache."""

    def __set__(self, instance: Any, value: Any) -> None:
        super().__set__(instance, value)
        if (agent := CURRENT.get()) is not None:
            agent.own[OwnLevel] = True


class LevelCache(OwnValue):
    """That cache; empty for an agent with levels of its own."""

    def __get__(self, instance: Any, kind: type | None = None) -> Any:
        agent = CURRENT.get()
        return {} if agent is not None and OwnLevel in agent.own else self.shared(instance)


class FixedAtFirstUse(OwnValue):
    """Whether structlog fixes a logger's configuration at its first use: not at an agent's."""

    def __get__(self, instance: Any, kind: type | None = None) -> Any:
        agent = CURRENT.get()
        return False if agent is not None and agent.own else self.shared(instance)


class WarningsModule(ModuleType):
    """The class of `warnings` while output is captured; its C code reads the attributes, too."""

    filters = OwnValue(ModuleType, "filters")
    showwarning = OwnValue(ModuleType, "showwarning")


# Not as methods of the classes that they replace: of these `self` is the first argument.


def _adding(name: str) -> Callable[[Any, Any], None]:
    def add(self: Any, new: Any) -> None:
        if new not in (present := getattr(self, name)):
            setattr(self, name, [*present, new])

    return add


def _removing(name: str) -> Callable[[Any, Any], None]:
    return lambda self, old: setattr(
        self, name, [other for other in getattr(self, name) if other is not old]
    )


def _add_warning_filter(*item: Any, append: bool) -> None:
    others = [other for other in warnings.filters if other != item]
    present = len(others) < len(warnings.filters)
    if not append:
        warnings.filters = [item, *others]
    elif not present:
        warnings.filters = [*others, item]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _reset_warnings() -> None:
    warnings.filters = []
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _show_warning(message: Any) -> None:
    show = warnings.showwarning
    if show is warnings._showwarning_orig:  # type: ignore[attr-defined]
        warnings._showwarnmsg_impl(message)  # type: ignore[attr-defined]
    else:
        show(
            message.message, message.category, message.filename, message.lineno, message.file,
            message.line,
        )  # fmt: skip


class Patches:
    """Attributes that are replaced for a while."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, Any, Any]] = []

    def set(self, target: Any, name: str, value: Any) -> Any:
        """Replace one; returns what it was."""
        before = ModuleType if name == "__class__" else vars(target).get(name, _ABSENT)
        self._replaced.append((target, name, before, value))
        setattr(target, name, value)
        return before

    def restore(self) -> None:
        for target, name, before, _ in reversed(self._replaced):
            if before is _ABSENT:
                delattr(target, name)
            else:
                setattr(target, name, before)
        self._replaced.clear()

    def put_back(self) -> Iterator[str]:
        """Replace again what other code has replaced since, and name it."""
        for target, name, _, value in self._replaced:
            present = type(target) if name == "__class__" else vars(target).get(name)
            if present is not value and not _wraps(present, value):
                with suppress(Exception):
                    setattr(target, name, value)
                    yield f"{getattr(target, '__name__', target)}.{name}"


def _wraps(new: Any, old: Any) -> bool:
    """Whether a function calls the one that it replaced, as instrumentation does."""
    cells = getattr(new, "__closure__", None) or ()
    with suppress(ValueError):  # a cell that is empty
        return getattr(new, "__wrapped__", None) is old or any(
            cell.cell_contents is old for cell in cells
        )
    return False


def _is_enabled_for(self: logging.Logger, level: int) -> bool:
    """As `Logger.isEnabledFor`, without the cost of those attributes."""
    agent = CURRENT.get()
    if agent is None or OwnLevel not in agent.own:
        shared = vars(self)
        if not shared["disabled"] and (enabled := shared["_cache"].get(level)) is not None:
            return bool(enabled)
    return bool(_enabled(self, level))


def _clear_cache(self: logging.Manager) -> None:
    """Nothing is cached of an agent that changes its own levels."""
    if CURRENT.get() is None:
        _cleared(self)


_enabled = logging.Logger.isEnabledFor
_cleared = logging.Manager._clear_cache  # type: ignore[attr-defined]


def separate(patches: Patches) -> None:
    """Give each agent values of its own."""
    logger, handler, filterer = logging.Logger, logging.Handler, logging.Filterer
    for owner, name in (
        (logger, "propagate"), (logger, "handlers"), (filterer, "filters"), (handler, "level"),
    ):  # fmt: skip
        patches.set(owner, name, OwnValue(owner, name))
    for name in ("level", "disabled"):
        patches.set(logger, name, OwnLevel(logger, name))
    patches.set(logger, "_cache", LevelCache(logger, "_cache"))
    patches.set(logging.Manager, "_disable", OwnLevel(logging.Manager, "_disable"))
    patches.set(logger, "isEnabledFor", _is_enabled_for)
    patches.set(logging.Manager, "_clear_cache", _clear_cache)
    patches.set(logger, "addHandler", _adding("handlers"))
    patches.set(logger, "removeHandler", _removing("handlers"))
    patches.set(filterer, "addFilter", _adding("filters"))
    patches.set(filterer, "removeFilter", _removing("filters"))
    patches.set(builtins, "print", print)  # as it is, to be put back; so are these:
    for name in (name for name in logging.__all__ if callable(vars(logging)[name])):
        patches.set(logging, name, vars(logging)[name])
    patches.set(logging, "root", logging.root)
    patches.set(warnings, "__class__", WarningsModule)
    patches.set(warnings, "_add_filter", _add_warning_filter)
    patches.set(warnings, "resetwarnings", _reset_warnings)
    patches.set(warnings, "_showwarnmsg", _show_warning)
    settings = type(structlog._config._CONFIG)
    for name in ("is_configured", "default_processors", "default_context_class",
                 "default_wrapper_class", "logger_factory"):  # fmt: skip
        patches.set(settings, name, OwnValue(settings, name))
    name = "cache_logger_on_first_use"
    patches.set(settings, name, FixedAtFirstUse(settings, name))


def separate_configuration(levels: Levels) -> dict[Any, Any]:
    """What each agent has of its own where other parts of the process have configured logging."""
    configuration = structlog._config._CONFIG
    usual = {
        name: value.default
        for name, value in vars(type(configuration)).items()
        if isinstance(value, OwnValue) and not isinstance(value, FixedAtFirstUse)
    }
    return {
        OwnLevel: True,
        (logging.getLogger(), "handlers"): [],
        **{(logger, "level"): n for logger, n in levels.of_loggers(shared=True).items()},
        **{(configuration, name): value for name, value in usual.items()},
    }
