"""How the deployment fares at this moment, in a handful of indexed questions: what `routet2i health` judges.

Read only, and quick at any size: no count goes over a whole table. It knows numbers, not which of them are
bad (`scheduler.health`). Ages are by the database's clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from db.clients import RUNS, TIER_RUNS
from db.dialects import run
from db.session import reading

LOOKED_AT = 1_000  # waiting jobs: the age of the oldest of them is at most that of the oldest of all


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerVitals:
    """One worker that was heard of lately."""

    worker: str
    tier: str
    state: str  # idle, busy, draining
    fault: str | None  # why it gave its last microbatch back
    fault_seconds: float | None  # since then


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    """Ages in seconds; None where there is nothing to have an age."""

    leader: str | None  # who was elected last
    lease_left_seconds: float | None  # negative: nobody leads
    waiting_seconds: float | None  # at least so long a job waits for a window
    window_seconds: float | None  # since the last window was committed
    ready: Mapping[str, bool]  # tier -> whether microbatches are to be sent
    sent_seconds: Mapping[str, float]  # tier -> since the oldest unclaimed message was sent
    claimed: Mapping[str, bool]  # tier -> whether a microbatch is claimed
    overdue: int  # claims whose lease has ended and that nobody swept, up to 1000
    overdue_seconds: float | None  # since the first of them ended
    workers: Sequence[WorkerVitals]

    def has_work(self, tier: str) -> bool:
        """Whether a tier has microbatches that are not final."""
        return bool(self.ready.get(tier) or tier in self.sent_seconds or self.claimed.get(tier))


def vitals(engine: Engine, *, tiers: Sequence[str], live_seconds: float) -> Vitals:
    """Ask the database.

    Args:
        tiers: names of those to look at.
        live_seconds: a worker silent for longer is left out.
    Raises:
        ServiceUnavailable: it does not answer.
        SchemaMismatch: it has not our tables.
    """
    with reading(engine) as connection:
        leader = run(
            connection, "SELECT holder, expires_ms - {NOW} AS left_ms FROM leader WHERE name = 'scheduler'"
        ).one_or_none()
        overdue = run(
            connection,
            """SELECT count(*) AS claims, max({NOW} - lease_until_ms) AS age_ms FROM (
                SELECT lease_until_ms FROM microbatch WHERE state = 'claimed' AND lease_until_ms < {NOW}
                ORDER BY lease_until_ms LIMIT 1000) late""",
        ).one()
        sent = {tier: _sent(connection, tier) for tier in tiers}
        return Vitals(
            leader=None if leader is None else leader.holder,
            lease_left_seconds=None if leader is None else leader.left_ms / 1000,
            waiting_seconds=_waiting(connection),
            window_seconds=_window(connection),
            ready={tier: _has(connection, tier, "ready") for tier in tiers},
            sent_seconds={tier: age for tier, age in sent.items() if age is not None},
            claimed={tier: _has(connection, tier, "claimed") for tier in tiers},
            overdue=overdue.claims,
            overdue_seconds=_seconds(overdue.age_ms),
            workers=_workers(connection, live_seconds=live_seconds),
        )


def _waiting(connection: Connection) -> float | None:
    return _seconds(
        run(
            connection,
            f"""SELECT {{NOW}} - min(since) FROM (
                SELECT CASE WHEN j.not_before_ms > j.created_ms THEN j.not_before_ms
                            ELSE j.created_ms END AS since
                FROM job j JOIN batch b ON b.id = j.batch_id
                WHERE j.state = 'queued' AND b.state = 'open' AND j.not_before_ms <= {{NOW}} AND {RUNS}
                    AND {TIER_RUNS.replace("w.tier", "j.tier")}
                LIMIT :most) queue""",  # noqa: S608 - constants
            {"most": LOOKED_AT},
        ).scalar()
    )


def _window(connection: Connection) -> float | None:
    """Window ids grow with time (UUID 7), so the newest is the last one by its key."""
    return _seconds(
        run(connection, "SELECT {NOW} - committed_ms FROM decision_window ORDER BY id DESC LIMIT 1").scalar()
    )


def _has(connection: Connection, tier: str, state: str) -> bool:
    found = run(
        connection,
        "SELECT 1 FROM microbatch WHERE tier = :tier AND state = :state LIMIT 1",
        {"tier": tier, "state": state},
    ).scalar()
    return found is not None


def _sent(connection: Connection, tier: str) -> float | None:
    return _seconds(
        run(
            connection,
            "SELECT {NOW} - min(sent_at_ms) FROM microbatch WHERE tier = :tier AND state = 'sent'",
            {"tier": tier},
        ).scalar()
    )


def _workers(connection: Connection, *, live_seconds: float) -> list[WorkerVitals]:
    rows = run(
        connection,
        """SELECT id, tier, state, fault, {NOW} - fault_ms AS fault_age_ms FROM worker
            WHERE state IN ('idle', 'busy', 'draining') AND heartbeat_ms >= {NOW} - :within ORDER BY id""",
        {"within": round(live_seconds * 1000)},
    )
    return [
        WorkerVitals(
            worker=row.id,
            tier=row.tier,
            state=row.state,
            fault=row.fault,
            fault_seconds=None if row.fault is None else _seconds(row.fault_age_ms),
        )
        for row in rows
    ]


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
