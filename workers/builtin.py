"""The built-in agent under its public path, `workers.builtin:Placeholder`."""

from workers.api.agent import Placeholder

__all__ = ["Placeholder"]
