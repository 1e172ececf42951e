"""States as rows, and rows as states: nothing that a fold knows is lost in a table.

The projector restarts from its rows instead of replaying the log, so `agent_of(agent_record(a))`
is `a` again. A field of a Struct is a column of its table; its annotation says of which type and
how it is written. `store.tables` makes the tables from these codecs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, inspect
from msgspec.structs import fields, replace

from eventstore.language.agents import Agent
from eventstore.language.catalogue import Host, Pool
from eventstore.language.events import Count
from eventstore.language.pool_config import read_config, write_config
from eventstore.language.tokens import Token
from eventstore.language.workers import Worker

if TYPE_CHECKING:
    from sqlalchemy import RowMapping

Record: TypeAlias = dict[str, Any]
"""A row as it is written."""
Row: TypeAlias = "RowMapping | Mapping[str, Any]"
"""A row as it is read."""

AGENT_COLUMNS: Final = {"worker_id": "process_id", "requested_ms": "created_at"}
"""Fields of an agent whose column has another name. (Besides: `…_ms` is `…_at` in all tables.)"""
INTEGER_MAX: Final = 2**31 - 1

State = TypeVar("State", bound=Struct)
T = TypeVar("T")


def _same(value: Any) -> Any:
    return value


class _Form(Struct, frozen=True):
    """How values of one type are stored. `sql` names the column's type, as PostgreSQL does."""

    sql: str
    write: Callable[[Any], Any] = _same
    read: Callable[[Any], Any] = _same
    nullable: bool = False


class Values(Generic[State]):
    """Some columns of a table, and their values as tuples: the fields of a state, then `more`."""

    def __init__(self, columns: Mapping[str, tuple[str, _Form]]) -> None:
        fields_first = sorted(columns.items(), key=lambda column: not column[1][0])
        self.names = tuple(name for name, _ in fields_first)
        self._fields_of: Callable[[State], tuple[Any, ...]] = attrgetter(
            *(field for _, (field, _) in fields_first if field)
        )
        self._writes = [
            (at, form.write)
            for at, (_, (_, form)) in enumerate(fields_first)
            if form.write is not _same
        ]

    def of(self, state: State, *more: Any) -> tuple[Any, ...]:
        """In the order of `names`."""
        values = [*self._fields_of(state), *more]
        for at, write in self._writes:
            values[at] = write(values[at])
        return tuple(values)


class RowCodec(Generic[State]):
    """`first`: the first columns in their order, the others follow in that of the fields; `more`:
    columns whose values come from elsewhere; `without`: fields that have no column of their own;
    `fixed`: columns that never change once a row is written.
    """

    def __init__(
        self,
        shape: type[State],
        *,
        keys: str,
        first: str = "",
        renamed: Mapping[str, str] = {},
        more: Mapping[str, Any] = {},
        without: str = "",
        fixed: str = "",
    ) -> None:
        self._shape = shape
        forms = {
            column_name(field.name, renamed): (field.name, _form_of(field.type))
            for field in fields(shape)
            if field.name not in without.split()
        }
        forms |= {name: ("", _form_of(kind)) for name, kind in more.items()}
        self.keys = keys.split()
        names = dict.fromkeys((*first.split(), *forms))
        self.columns = {name: forms[name] for name in names}
        """By name: the field, empty if its value comes from elsewhere, and how it is stored."""
        self.all = Values[State](self.columns)
        """Of a row."""
        written_once = set(fixed.split()) - set(self.keys)
        self.changing = Values[State](
            {name: column for name, column in self.columns.items() if name not in written_once}
        )
        """Of a row that is there: its keys, and what may have changed."""

    def to_row(self, state: State, *more: Any) -> Record:
        """`more`: the values that come from elsewhere, in the order of their columns."""
        found = dict(zip(self.all.names, self.all.of(state, *more), strict=True))
        return {name: found[name] for name in self.columns}

    def from_row(self, row: Row) -> State:
        """The inverse of `to_row`."""
        columns = self.columns.items()
        return self._shape(**{f: form.read(row[name]) for name, (f, form) in columns if f})


def column_name(field: str, renamed: Mapping[str, str]) -> str:
    stem = field.removesuffix("_ms")
    return renamed.get(field, field if stem == field else f"{stem}_at")


def _form_of(annotation: Any) -> _Form:
    match inspect.type_info(annotation):
        case inspect.StrType():
            return _Form("text", storable)
        case inspect.EnumType(cls=cls):
            return _Form("text", attrgetter("_value_"), cls)
        case inspect.IntType(le=most):
            small = most is not None and most <= INTEGER_MAX
            return _Form("integer" if small else "bigint")
        case inspect.FloatType():
            return _Form("double precision")
        case inspect.UnionType(types=(inspect.FloatType(), inspect.NoneType())):
            return _Form("double precision", nullable=True)
        case inspect.BoolType():
            return _Form("boolean")
        case inspect.VarTupleType(item_type=inspect.IntType()):
            return _Form("text", _numbers_text, _numbers)
        case inspect.RawType():
            return _Form("text", lambda raw: bytes(raw).decode(), lambda t: msgspec.Raw(t.encode()))
        case _:
            decoder = msgspec.json.Decoder(annotation)
            return _Form("text", _json_text, lambda text: decoder.decode(text) if text else None)


def _json_text(value: Any) -> str:
    return "" if value is None else msgspec.json.encode(value).decode()


def storable(text: str) -> str:
    """PostgreSQL can store every character but this one."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _numbers_text(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers)) if numbers else ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


AGENTS: Final = RowCodec(
    Agent,
    keys="agent_id pool_name",
    first="agent_id pool_name role_type project_id status reason stop incarnation version"
    " process_id epoch claim_seq generation heartbeat_interval max_idle_time expires_at due_at"
    " failures losses alone input labels last_error created_at started_at ended_at changed_at",
    renamed=AGENT_COLUMNS,
    more={"generation": int},
    fixed="role_type project_id heartbeat_interval max_idle_time input labels created_at"
    " correlation_id",
)
WORKERS: Final = RowCodec(
    Worker,
    keys="worker_id pool_name",
    first="worker_id pool_name host pid start_time status reason draining epoch version agent_count"
    " max_agents alone deadline_at requested_at started_at ended_at",
    more={"agent_count": Count, "alone": str},
)
POOLS: Final = RowCodec(Pool, keys="pool_name", without="unknown")
HOSTS: Final = RowCodec(Host, keys="host")
TOKENS: Final = RowCodec(Token, keys="name")

agent_of: Final = AGENTS.from_row
worker_of: Final = WORKERS.from_row
host_of: Final = HOSTS.from_row
host_record: Final = HOSTS.to_row
token_of: Final = TOKENS.from_row
token_record: Final = TOKENS.to_row


def claim_generation(agent: Agent, generation: int) -> int:
    """With `claim_seq` it makes the fencing token. `generation` is that of the log.

    A log that is recovered has every claim released, so a claim is of the log's own generation.
    """
    return generation if agent.claim_seq else 0


def agent_record(agent: Agent, generation: int) -> Record:
    """`generation` is that of the log."""
    return AGENTS.to_row(agent, claim_generation(agent, generation))


def worker_record(worker: Worker, agent_count: int, isolated_agent: str) -> Record:
    """`isolated_agent`: the agent that has the worker for itself, if one does."""
    return WORKERS.to_row(worker, agent_count, isolated_agent)


def pool_record(pool: Pool) -> Record:
    """Its settings with those that only a newer version knows."""
    config = bytes(write_config(pool.config, pool.unknown)).decode()
    return {**POOLS.to_row(pool), "config": config}


def pool_of(row: Row) -> Pool:
    config, unknown = read_config(row["config"].encode())
    return replace(POOLS.from_row({**row, "config": "{}"}), config=config, unknown=unknown)


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most so many of them."""
    remaining = iter(items)
    while chunk := list(islice(remaining, size)):
        yield chunk
