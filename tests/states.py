"""Any state at all, for Hypothesis: made from the annotations, so that new fields are tried too."""

from typing import Any, TypeVar

import msgspec
from hypothesis import strategies as st
from msgspec import Struct, inspect

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
COUNTS = st.integers(0, 2**53)
SECONDS = st.integers(0, 10**9).map(lambda ms: ms / 1000)
"""What fifteen digits hold exactly."""

T = TypeVar("T", bound=Struct)


def states(shape: type[T], **values: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Structs of a kind; `values`: the values of some fields."""
    kind = inspect.type_info(shape)
    assert isinstance(kind, inspect.StructType)
    fields = {field.name: _values(field.type) for field in kind.fields if field.name not in values}
    return st.builds(shape, **fields, **values)


def _values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    match kind:
        case inspect.StrType():
            return TEXTS
        case inspect.IntType():
            return COUNTS if kind.le is None else st.integers(0, kind.le)
        case inspect.FloatType():
            return SECONDS
        case inspect.BoolType():
            return st.booleans()
        case inspect.EnumType():
            return st.sampled_from(list(kind.cls))
        case inspect.UnionType(types=(of, inspect.NoneType())):
            return st.none() | _values(of)
        case inspect.VarTupleType():
            return st.lists(_values(kind.item_type), max_size=3).map(tuple)
        case inspect.DictType():
            return st.dictionaries(TEXTS, TEXTS, max_size=3)
        case inspect.RawType():
            objects = st.dictionaries(TEXTS, COUNTS, max_size=3)
            return objects.map(lambda found: msgspec.Raw(msgspec.json.encode(found)))
        case inspect.StructType():
            return states(kind.cls)
        case _:
            raise TypeError(f"no values of {kind}")
