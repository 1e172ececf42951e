"""The event loop that neighbours share: what one agent does to it does not reach the others.

An agent sees the loop as if it were its own. What it configures (the default executor, the handler
of exceptions) is kept for this incarnation. `all_tasks` returns its own tasks. What would end or
change the loop of all is refused, and `agent.refused` names the agent. A task of the worker's, or
the call of a neighbour's method, is not cancelled by whoever gets hold of it.

This is no wall: code that means to harm its process can. It contains what code does that was
written for a process of its own.
"""

import asyncio
import functools
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextvars import Context, ContextVar
from typing import Any, Final, NoReturn

import structlog

from workers.output.lines import CURRENT, Owner
from workers.runtime.errors import describe
from workers.runtime.threads import executor_of, track_threads

SHARED: Final = ContextVar("muster_shared", default=False)
"""Set where code runs that makes what agents share: they may cancel the tasks of that."""
OWNER: Final = "muster_owner"
"""The attribute of a task, or of a future of an executor, that has its owner."""
WHAT_MAX: Final = 500

log = structlog.get_logger("muster.loop")

_guarded: Final = weakref.WeakSet[asyncio.AbstractEventLoop]()
_all_tasks = asyncio.all_tasks


class AgentExit(Exception):
    """An agent's code raised SystemExit or KeyboardInterrupt, which would end the whole worker."""


class GuardedTask(asyncio.Task[Any]):
    """A task of the worker's, or a call of an agent: no other agent may cancel it."""

    def cancel(self, msg: Any | None = None) -> bool:
        by = CURRENT.get()
        if by is None or by is getattr(self, OWNER, None):
            return super().cancel(msg)
        _log_refusal(by, "cancel a task that is not its own")
        return False


@functools.cache
def track_neighbours() -> None:
    """Wrap what is not a loop's. Early, so that modules of agents import what is wrapped."""
    track_threads()
    asyncio.all_tasks = asyncio.tasks.all_tasks = _visible_tasks


def guard_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Guard a loop on which agents are to run. A second call does nothing."""
    if loop in _guarded:
        return
    track_neighbours()
    _guarded.add(loop)
    loop.set_task_factory(functools.partial(_create_task, loop.get_task_factory()))
    loop.set_exception_handler(functools.partial(_on_exception, loop.get_exception_handler()))
    for name, replacement in _FOR_AGENTS.items():
        setattr(loop, name, _for_agents(getattr(loop, name), replacement))


def keep_running(loop: asyncio.AbstractEventLoop, until: "asyncio.Future[Any]") -> None:
    """Let nobody stop the loop, in whatever context, as long as that is not done."""
    stop = loop.stop
    loop.stop = lambda: stop() if until.done() else _stop(CURRENT.get(), stop)  # type: ignore[method-assign]


def _for_agents(method: Callable[..., Any], replacement: Callable[..., Any]) -> Any:
    """The method of a loop, with a replacement where an agent calls it."""

    def wrapper(*arguments: Any, **options: Any) -> Any:
        owner = CURRENT.get()
        if owner is None:
            return method(*arguments, **options)
        return replacement(owner, method, *arguments, **options)

    return wrapper


def _log_refusal(owner: Owner | None, what: str) -> None:
    log.warning("agent.refused", **(owner.ids if owner else {}), what=what)


# ---- what agents call instead --------------------------------------------------------------------


def _stop(owner: Owner | None, _: Callable[..., Any]) -> NoReturn:
    _log_refusal(owner, "stop the event loop")
    raise RuntimeError(
        "this event loop is shared, an agent cannot stop it; the agent ends when `run` returns"
    )


def _ignore(owner: Owner, method: Callable[..., Any], *_: Any) -> None:
    _log_refusal(owner, f"{method.__name__} of the event loop")


async def _close_nothing(owner: Owner, method: Callable[..., Any], *_: Any) -> None:
    _ignore(owner, method)


def _run_in_executor(
    owner: Owner,
    method: Callable[..., Any],
    executor: Executor | None,
    func: Callable[..., Any],
    *args: Any,
) -> Any:
    future = method(executor or executor_of(owner), func, *args)
    setattr(future, OWNER, owner)
    return future


def _set_default_executor(owner: Owner, _: Callable[..., Any], executor: Executor) -> None:
    owner.executor = executor


async def _drop_default_executor(owner: Owner, _: Callable[..., Any], *__: Any) -> None:
    owner.executor = None


def _set_exception_handler(
    owner: Owner, _: Callable[..., Any], handler: Callable[..., object] | None
) -> None:
    owner.exception_handler = handler


_FOR_AGENTS: Final[Mapping[str, Callable[..., Any]]] = {
    "stop": _stop,
    "run_in_executor": _run_in_executor,
    "set_default_executor": _set_default_executor,
    "shutdown_default_executor": _drop_default_executor,
    "shutdown_asyncgens": _close_nothing,
    "set_exception_handler": _set_exception_handler,
    "get_exception_handler": lambda owner, _: owner.exception_handler,
    "set_task_factory": _ignore,
    "set_debug": _ignore,
}


def _visible_tasks(loop: asyncio.AbstractEventLoop | None = None) -> "set[asyncio.Task[Any]]":
    """Instead of `asyncio.all_tasks`: an agent sees its own."""
    tasks = _all_tasks(loop)
    owner = CURRENT.get()
    if owner is None or (loop or asyncio.get_running_loop()) not in _guarded:
        return tasks
    return tasks & owner.tasks


# ---- tasks, and what fails in them ---------------------------------------------------------------


def _create_task(
    inner: Any, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> asyncio.Task[Any]:
    """Note the owner of a task. The worker's own are guarded, and the calls that it makes."""
    context: Context | None = options.get("context")
    creator = CURRENT.get()
    owner = creator if context is None else context.get(CURRENT)
    kind = asyncio.Task if creator or SHARED.get() else GuardedTask
    make = functools.partial(inner, loop) if inner else functools.partial(kind, loop=loop)
    if owner is None:
        return make(coroutine, **options)
    guarded = _catch_exits(coroutine) if asyncio.iscoroutine(coroutine) else coroutine
    task = make(guarded, **options)
    _note_owner(task, owner)
    if guarded is not coroutine:  # one cancelled before it began is never awaited
        task.add_done_callback(lambda _: coroutine.close())
    return task


def own_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, owner: Owner, **options: Any
) -> asyncio.Task[None]:
    """A task in which an agent is called, by what lets no exception out."""
    task = GuardedTask(coroutine, loop=loop, **options)
    _note_owner(task, owner)
    return task


def _note_owner(task: asyncio.Task[Any], owner: Owner) -> None:
    setattr(task, OWNER, owner)
    owner.tasks.add(task)
    task.add_done_callback(owner.tasks.discard)


async def _catch_exits(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """asyncio lets these two out of a task and through the event loop."""
    try:
        return await coroutine
    except (SystemExit, KeyboardInterrupt) as error:
        described = describe(error)
        raise AgentExit(f"{described.type}: {described.message}") from error


def _on_exception(
    otherwise: Callable[..., object] | None,
    loop: asyncio.AbstractEventLoop,
    context: dict[str, Any],
) -> None:
    """The handler of exceptions of a loop: those of an agent are logged with its ids."""
    owner = _owner_of(context)
    if owner is not None:
        owner.context().run(_report_exception, owner, loop, context)
    elif otherwise is not None:
        otherwise(loop, context)
    else:
        loop.default_exception_handler(context)


def _owner_of(context: Mapping[str, Any]) -> Owner | None:
    """Of a task or future that nobody awaited, or of a callback that runs now."""
    future = context.get("task") or context.get("future")
    if future is not None:
        found: Owner | None = getattr(future, OWNER, None)
        return found
    variables: Context | None = getattr(context.get("handle"), "_context", None)
    return variables.get(CURRENT) if variables is not None else CURRENT.get()


def _report_exception(
    owner: Owner, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
) -> None:
    error = context.get("exception")
    if owner.exception_handler is not None:
        try:
            owner.exception_handler(loop, context)
        except BaseException as failure:  # noqa: BLE001  it is the agent's
            error = failure
        else:
            return
    fields: dict[str, object] = {"what": str(context.get("message"))[:WHAT_MAX]}
    if error is not None:
        found = describe(error)
        fields |= {"error": found.type, "message": found.message, "exception": found.traceback}
    log.error("agent.task_failed", **owner.ids, **fields)
