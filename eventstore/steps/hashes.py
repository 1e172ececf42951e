"""Agents and workers as Redis hashes of short strings: one codec, compiled once for each Struct.

A field of the Struct is a field of the hash; its annotation decides how it is written. A value over
64 bytes would double the memory of a hash, so long ones are in `VIEWS_ONLY`. The scripts store more
fields in the same hash (`command_id`, `claimed`, `agent_count`, `renewal`, …), and fields that a
newer version added are not changed.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from operator import attrgetter, ne
from typing import Any, Final, Generic, NamedTuple, TypeVar

from msgspec import NODEFAULT, Struct, inspect

from eventstore.errors import Unreadable
from eventstore.language.agents import Agent
from eventstore.language.workers import Worker

HASH_NAMES: Final = {"worker_id": "process_id"}
"""Fields that have another name in the hash."""
VIEWS_ONLY: Final = frozenset(
    (
        "input", "labels", "last_error", "state_size", "saved_ms",
        "requested_ms", "started_ms", "ended_ms", "changed_ms",
    )
)  # fmt: skip
"""Fields that are folded for the views, and not stored in the hash."""

CAUSES: Final = ("correlation_id", "last_event_id")

State = TypeVar("State", bound=Struct)


class _Form(Struct, frozen=True):
    """How values of one type are written and read. `lua`: the patterns that `read` accepts."""

    write: Callable[[Any], str]
    read: Callable[[str], Any]
    lua: tuple[str, ...] = ("",)


class _Field(NamedTuple):
    """A field of the hash. `usual`: its default, and `text` as it is written."""

    name: str
    raw_name: bytes
    attribute: str
    form: _Form
    usual: Any
    text: str
    raw_text: bytes | None
    required: bool


class HashCodec(Generic[State]):
    """`first`: the fields that every hash has, in their order. Fields that were added to the Struct
    later follow them, and have their default if the hash is older than the field.
    """

    def __init__(self, kind: str, shape: type[State], *, key: str, first: str) -> None:
        self._kind, self._shape, self._key = kind, shape, key
        info = inspect.type_info(shape)
        assert isinstance(info, inspect.StructType)
        stored = {
            HASH_NAMES.get(field.name, field.name): field
            for field in info.fields
            if field.name != key and field.name not in VIEWS_ONLY
        }
        self.first = tuple(first.split())
        names = [*self.first, *(name for name in stored if name not in self.first)]
        self._fields = [_field(name, stored[name], name in self.first) for name in names]
        self._values = attrgetter(*(field.attribute for field in self._fields))
        self._usual = tuple(field.usual for field in self._fields)
        self._writes = [
            (2 * at + 1, field.name, field.form.write) for at, field in enumerate(self._fields)
        ]
        self._texts = [text for field in self._fields for text in (field.name, field.text)]

    def to_hash(self, state: State) -> dict[str, str]:
        flat = self.to_flat(state)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    def to_flat(
        self, state: State, stored: State | None = None, *, absent: bool = False
    ) -> list[str]:
        """Alternating names and values; only of the fields that differ from the `stored` state.

        `absent`: there is no hash. Fields that it may lack are left out if they have their default.
        """
        values, known = self._values(state), self._values(stored) if stored else self._usual
        flat = [] if stored else self._texts[: 2 * len(self.first) if absent else None]
        size = len(flat)
        writes = zip(self._writes, values, strict=True)
        for (at, name, write), value in compress(writes, map(ne, values, known)):
            if at < size:
                flat[at] = write(value)
            else:
                flat += name, write(value)
        return flat

    def from_hash(self, subject: str, fields: Mapping[str, str]) -> State:
        """The inverse of `to_hash`; other fields are ignored. Raises `Unreadable`."""
        texts = (text for pair in fields.items() for text in pair)
        return self.from_flat(subject, [text.encode(errors="surrogatepass") for text in texts])

    def from_flat(self, subject: str, flat: Sequence[bytes], *, checked: bool = False) -> State:
        """Like `from_hash`, of a reply in which names and values alternate; the last one counts.

        Invalid UTF-8 becomes replacement characters, which are refused where it matters.
        `checked`: by the function in Lua, so what is not there has its default.
        """
        values: dict[str, Any] = {self._key: subject}
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        for field in self._fields:
            value = stored.get(field.raw_name)
            if value is None:
                if field.required and not checked:
                    raise Unreadable(self._kind, subject, f"its hash has no field {field.name}")
            elif value != field.raw_text:
                try:
                    values[field.attribute] = field.form.read(value.decode(errors="replace"))
                except ValueError as error:
                    reason = f"its field {field.name}: {error}"
                    raise Unreadable(self._kind, subject, reason) from error
        return self._shape(**values)

    def completed(self, fields: Mapping[str, str]) -> dict[str, str]:
        """A hash with defaults for the fields that are newer than the hash."""
        return {field.name: field.text for field in self._fields if not field.required} | {**fields}

    def expected(self, state: State, stored: Mapping[str, str]) -> dict[str, str]:
        """Like `to_hash`, but with the causes empty if an older version wrote `stored`."""
        fields = self.to_hash(state)
        return fields | {name: "" for name in CAUSES if name in fields and not stored.get(name)}

    def lua_check(self) -> str:
        """A function in Lua that returns which field of a hash `from_hash` cannot read, if any.

        It adds the fields that differ from their default to `flat`.
        """
        lines = ["local function unreadable_field(hash, flat)", "  local text, n = nil, 0"]
        for field in self._fields:
            differs = f"text ~= {field.text!r}" if field.raw_text is not None else "true"
            differs += "" if field.required else " and text"
            wrong = " and ".join(f"not string.find(text, {it!r})" for it in field.form.lua)
            lines += (
                f"  text = hash.{field.name} if {differs} then",
                f"    if not text or {wrong} then return {field.name!r} end",
                f"    flat[n + 1], flat[n + 2], n = {field.name!r}, text, n + 2 end",
            )
        return "\n".join((*lines, "end"))


def _field(name: str, field: inspect.Field, required: bool) -> _Field:
    form, usual = _form_of(field.type), field.default
    text = "" if usual is NODEFAULT else form.write(usual)
    raw_text = None if usual is NODEFAULT else text.encode()
    return _Field(name, name.encode(), field.name, form, usual, text, raw_text, required)


_INTEGER: Final = "^%d+$"
_DECIMALS: Final = (r"^%-?%d+%.?%d*$", r"^%-?%d+%.?%d*e[+-]%d+$")


def _form_of(kind: inspect.Type) -> _Form:
    match kind:
        case inspect.StrType():
            return _Form(str, str)
        case inspect.IntType():
            return _Form(str, int, (_INTEGER,))
        case inspect.FloatType():
            return _Form("{:.15g}".format, float, _DECIMALS)
        case inspect.BoolType():
            return _Form(lambda value: "1" if value else "", bool)
        case inspect.EnumType():
            escaped = (re.sub(r"(\W)", r"%\1", value.value) for value in kind.cls)
            return _Form(str, kind.cls, tuple(f"^{value}$" for value in escaped))
        case inspect.UnionType(types=(of, inspect.NoneType())):
            form = _form_of(of)
            return _Form(
                lambda value: "" if value is None else form.write(value),
                lambda text: form.read(text) if text else None,
                ("^$", *form.lua),
            )
        case inspect.VarTupleType(item_type=inspect.IntType()):
            return _Form(
                lambda numbers: ",".join(map(_base36, numbers)),
                lambda text: tuple(int(number, 36) for number in text.split(",") if number),
                ("^[0-9a-z,]*$",),
            )
        case _:
            raise TypeError(f"a hash cannot store {kind}: add the field to VIEWS_ONLY")


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


AGENT: Final = HashCodec(
    "agent",
    Agent,
    key="agent_id",
    first="status pool_name role_type project_id process_id incarnation version epoch claim_seq"
    " stop reason heartbeat_interval max_idle_time expires_ms due_ms failures losses",
)
WORKER: Final = HashCodec(
    "worker",
    Worker,
    key="worker_id",
    first="pid pool_name host status max_agents epoch version start_time deadline_ms draining"
    " reason",
)
