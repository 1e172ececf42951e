"""Typed keys for what a request carries. aiohttp has them since 3.14; any object does before."""

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from aiohttp.web import RequestKey
else:
    try:
        from aiohttp.web import RequestKey
    except ImportError:
        T = TypeVar("T")

        class RequestKey(Generic[T]):
            """Compared by identity, as aiohttp's own."""

            def __init__(self, name: str, _: type[T]) -> None:
                self.name = name


__all__ = ["RequestKey"]
