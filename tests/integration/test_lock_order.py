"""Every transaction locks rows in the one order that the docstring of db/repository.py names.

PostgreSQL tells which rows are locked: those that `SKIP LOCKED` leaves out for somebody else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text

import db.repository
from db.models import metadata
from db.repository import Repository
from db.session import make_engine
from tests.protocol import copies, world
from tests.protocol.stage import attempt
from tests.protocol.transactions import CALLS

ORDER = re.split(r",\s+", re.search(r"ids sorted: ([a-z_,\s]+)\.", str(db.repository.__doc__))[1])
GUARDED = {  # statements whose rows nobody can wait for, so that their order is free: text -> why
    "UPDATE job SET state = 'done'": "all of a microbatch or batch that this transaction has locked",
    "UPDATE job SET microbatch_id": "all of a microbatch that this transaction has locked",
    "UPDATE job SET cancel_requested": "all of microbatches that this transaction has locked",
    "UPDATE job SET state = 'assigned'": "queued jobs of batches and clients that it has locked",
    "UPDATE job SET not_before_ms": "queued jobs of batches that this transaction has locked",
    "UPDATE attempt": "all of a microbatch that this transaction has locked",
    "DELETE FROM waiting": "all of a batch that is locked, or changed before",
    "UPDATE worker": "nothing is locked before; two sweepers at once may have to repeat it",
    "UPDATE picture_deletion": "nothing is locked before; two prunings at once may have to repeat it",
    "DELETE FROM arrivals": "nothing is locked before; old slots, which nobody counts any more",
}
Row = tuple[str, tuple[str, ...]]


@dataclass
class Watcher:
    """Tells after each statement which rows it has locked that were not locked before."""

    connection: Connection
    held: set[Row] = field(default_factory=set)
    seen: list[tuple[str, bool, list[Row]]] = field(default_factory=list)  # said, row by row, locked

    def look(self, statement: str, *, sorted_: bool) -> None:
        now = {row for name in metadata.tables for row in self._locked(name)}
        self.seen.append((statement, sorted_, sorted(now - self.held)))
        self.held |= now

    def _locked(self, name: str) -> Iterator[Row]:
        keys = ", ".join(f"{column.name}::text" for column in metadata.tables[name].primary_key)
        every = self.connection.execute(text(f"SELECT {keys} FROM {name}")).all()
        if every:
            free = self.connection.execute(text(f"SELECT {keys} FROM {name} FOR NO KEY UPDATE SKIP LOCKED"))
            yield from ((name, tuple(row)) for row in {*every} - {*free})


@pytest.fixture(scope="module")
def engine(migrated_postgresql: str) -> Iterator[Engine]:
    made = make_engine(migrated_postgresql)
    with made.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} RESTART IDENTITY CASCADE"))
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def made(engine: Engine, shop_of: type) -> Iterator[world.World]:
    found = world.build(shop_of(Repository(engine)))
    with copies.kept(engine):
        yield found


@pytest.mark.parametrize("label", CALLS)
def test_a_transaction_locks_rows_in_the_one_order(label, engine, made, shop_of):
    copies.put_back(engine)
    looking = create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with looking.connect() as connection:
        watcher = Watcher(connection)
        calling = make_engine(engine.url.render_as_string(hide_password=False))
        event.listen(
            calling,
            "after_cursor_execute",
            lambda c, cur, said, values, context, many: watcher.look(said, sorted_=many),
        )
        event.listen(calling, "commit", lambda _: watcher.held.clear())
        attempt(lambda: CALLS[label](Repository(calling), made, shop_of))
        calling.dispose()
    looking.dispose()
    wrong = []
    last: tuple[int, tuple[str, ...]] = (-1, ())
    for statement, one_by_one, new in watcher.seen:
        if "SKIP LOCKED" in statement:  # it waits for nobody
            continue
        places = [(ORDER.index(name), key) for name, key in new if name in ORDER]
        if any(said in statement for said in GUARDED):
            continue
        if places and places[0] < last:
            wrong.append(f"{new[0]} after {ORDER[last[0]]} {last[1]}: {statement}")
        if len(new) > 1 and not one_by_one and "ORDER BY" not in statement:
            wrong.append(f"{len(new)} rows in no order: {statement}")
        last = max([last, *places])
    assert not wrong, "\n".join(wrong)
