"""The built-in agent under its public path, `workers.builtin:Placeholder`."""

from workers.api.placeholder import Placeholder

__all__ = ["Placeholder"]
