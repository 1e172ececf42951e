"""Muster: an auto-scaling pool of long-lived agents, event-sourced over Redis Streams.

This package is the public face. `Agent`, `Context`, `Unavailable` and `SaveFailed` are what
users build on; everything else is reached through the command `muster` and over HTTP.
"""

from typing import TYPE_CHECKING

from eventstore.version import __version__

if TYPE_CHECKING:
    from workers.api.agent import Agent, Context, SaveFailed, Unavailable, WorkerInfo

__all__ = ["Agent", "Context", "SaveFailed", "Unavailable", "WorkerInfo", "__version__"]


def __getattr__(name: str) -> object:
    """Import the worker code only where an agent is written, not for every command."""
    if name in {"Agent", "Context", "SaveFailed", "Unavailable", "WorkerInfo"}:
        from workers.api import agent

        return getattr(agent, name)
    raise AttributeError(f"module 'muster' has no attribute {name!r}")
