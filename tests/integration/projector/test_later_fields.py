"""A field of each kind that a later version adds is stored in both databases, and read back."""

import pytest
from msgspec.structs import replace
from sqlalchemy import Connection, MetaData, Table, select

from projector.store import tables
from projector.store.database import Database
from projector.store.mapping import Values
from projector.store.tables import How, write_rows
from tests.later import ROW, LaterAgent, Temper

TABLE = Table("later_agents", MetaData(), *tables._columns(ROW))
USUAL = LaterAgent(agent_id="a", pool_name="p", role_type="r", project_id="x", last_error=None)
OTHER = LaterAgent(
    agent_id="b",
    pool_name="p",
    role_type="r",
    project_id="x",
    temper="bright\t'☀️'",
    total=2**53 + 1,
    limit=None,
    loud=False,
    tone=Temper.CALM,
    seen=(),
    names={"a": 'b"\\'},
)


@pytest.mark.parametrize("copied_rows", [1, tables.COPIED_ROWS])
async def test_later_fields_are_written_and_read(
    database_url: str, copied_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where many rows are written at once."""
    monkeypatch.setattr(tables, "COPIED_ROWS", copied_rows)
    database = Database(database_url)
    database.open()

    def stored(connection: Connection) -> list[LaterAgent]:
        TABLE.create(connection)
        first = replace(OTHER, temper="", total=0, limit=1.0, loud=True, tone=Temper.NOT_SO)
        steps: list[tuple[Values[LaterAgent], How, LaterAgent]] = [
            (ROW.all, "replace", first),
            (ROW.all, "replace", first),
            (ROW.all, "skip", OTHER),
            (ROW.changing, "change", OTHER),
        ]
        for values, how, other in steps:
            written = [values.of(agent, 1) for agent in (USUAL, other)]
            write_rows(connection, TABLE, values.names, written, how)
        found = connection.execute(select(TABLE).order_by(TABLE.c.agent_id)).mappings()
        return [ROW.from_row(row) for row in found]

    try:
        await database.prepare()
        assert await database.write(stored) == [USUAL, OTHER]
    finally:
        await database.close()
