"""The rival of the overspend measurement: read what was spent, call if there is room, then add the bill.

This is how a cap is usually written. Each statement is atomic and durable, only the three do not know of each
other.
"""

import random
import time

from sqlalchemy import text

from db.session import make_engine, reading, transaction
from routet2i.errors import ServiceUnavailable
from tests.allocation.processes import in_threads
from tests.allocation.workload import CALL_SECONDS, Workload, bill, chain_of, wish

ROOM = "SELECT min(lim - spent) FROM naive WHERE name IN (:batch, :client, :deployment)"
CHARGE = "UPDATE naive SET spent = spent + :bill WHERE name = :name"


def prepare(url: str, workload: Workload) -> None:
    """Create the rival's own table of limits."""
    engine = make_engine(url)
    with transaction(engine) as connection:
        connection.execute(
            text("CREATE TABLE naive(name TEXT PRIMARY KEY, lim BIGINT NOT NULL, spent BIGINT NOT NULL)")
        )
        connection.execute(
            text("INSERT INTO naive VALUES(:name, :lim, 0)"),
            [{"name": name, "lim": limit} for name, limit in workload.limits.items()],
        )
    engine.dispose()


def write_naively(url: str, threads: int, number: int, until: float, seed: int) -> None:
    """Body of a process: so many writers until a moment of Unix time."""
    engine = make_engine(url)
    names = dict(zip(("batch", "client", "deployment"), chain_of(number), strict=True))

    def write(writer: int) -> None:
        draw = random.Random(f"{seed}/{number}/{writer}")
        while time.time() < until:
            price = wish(draw)
            try:
                with reading(engine) as connection:
                    room = connection.scalar(text(ROOM), names)
                time.sleep(CALL_SECONDS)
                if room < price:
                    continue
                charged = bill(draw, price)
                with transaction(engine) as connection:
                    connection.execute(
                        text(CHARGE), [{"bill": charged, "name": n} for n in sorted(names.values())]
                    )
            except ServiceUnavailable:
                continue  # the others kept it busy for too long

    in_threads(write, threads)
    engine.dispose()


def used(url: str) -> dict[str, int]:
    """Return what was charged to each limit, micro-dollars."""
    engine = make_engine(url)
    with reading(engine) as connection:
        rows = connection.execute(text("SELECT name, spent FROM naive")).all()
    engine.dispose()
    return {row.name: row.spent for row in rows}
