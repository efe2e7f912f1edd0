"""One scheduler leads at a time: a lease with a term that grows with every election.

It only saves work: every statement elsewhere is right with two leaders as well. Times are the database's.
"""

from sqlalchemy import Connection

from db.dialects import run
from routet2i.errors import LeaseLost


def elect(connection: Connection, *, holder: str, ttl_seconds: float) -> int | None:
    """Become leader if nobody is, or anew if we are and were not told; the new term, or None.

    A term that seems to last for more than two of them was begun before the database's clock went back.
    """
    term: int | None = run(
        connection,
        """INSERT INTO leader(name, holder, term, expires_ms) VALUES('scheduler', :holder, 1, {NOW} + :ttl)
            ON CONFLICT(name) DO UPDATE
            SET holder = excluded.holder, term = leader.term + 1, expires_ms = excluded.expires_ms
            WHERE leader.expires_ms < {NOW} OR leader.holder = excluded.holder
                OR leader.expires_ms > {NOW} + 2 * :ttl
            RETURNING term""",
        {"holder": holder, "ttl": round(ttl_seconds * 1000)},
    ).scalar()
    return term


def keep_leading(connection: Connection, *, holder: str, term: int, ttl_seconds: float) -> bool:
    """Prolong a term; False if it has ended."""
    kept = run(
        connection,
        """UPDATE leader SET expires_ms = {NOW} + :ttl
            WHERE name = 'scheduler' AND holder = :holder AND term = :term AND expires_ms >= {NOW}""",
        {"holder": holder, "term": term, "ttl": round(ttl_seconds * 1000)},
    )
    return kept.rowcount == 1


def resign(connection: Connection, *, holder: str, term: int) -> None:
    """End a term now, so that the next leader need not wait."""
    run(
        connection,
        """UPDATE leader SET expires_ms = {NOW} - 1
            WHERE name = 'scheduler' AND holder = :holder AND term = :term""",
        {"holder": holder, "term": term},
    )


def require_term(connection: Connection, *, term: int) -> None:
    """Make sure that nobody was elected after `term`, until this transaction ends.

    Raises:
        LeaseLost: somebody was.
    """
    current = run(connection, "SELECT term FROM leader WHERE name = 'scheduler' {SHARE}").scalar()
    if current != term:
        raise LeaseLost(f"term {term} has ended: the leader's term is {current}")
