"""What the deployment looks like now, in numbers: queues, ages, money, attempts, device time, windows.

Read only, and cheap on millions of jobs: what waits was counted as it came, unfinished work is walked by
indexes and sampled beyond a thousand microbatches, windows are the newest thousand, and outcomes are read
once and then only as they come (`Totals`). It knows no exposition format (`scheduler.api.metrics`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from db import speeds
from db.dialects import run
from db.session import reading

SAMPLE = 1_000  # microbatches of a tier and state whose jobs are counted; the rest are like them
NEWEST = 1_000  # windows, and microbatches, whose times are shown
MOST = 100_000  # deferred jobs, open calls that are counted
SETTLED_MS = 120_000  # an outcome is committed this long after its moment at the latest
OK = "ok"  # end of an attempt without an error


@dataclass(frozen=True, kw_only=True, slots=True)
class TierGauges:
    """One tier's unfinished work."""

    microbatches: Mapping[str, int]  # state (ready, sent, claimed) -> microbatches
    jobs: Mapping[str, int]  # the same states -> jobs in them, about
    oldest_seconds: float | None  # since its oldest unfinished job was submitted; None = it has none
    reserved_micro_usd: int  # for unfinished microbatches


@dataclass(frozen=True, kw_only=True, slots=True)
class Gauges:
    """The deployment at one moment."""

    queued_jobs: int
    queued_pictures: int
    deferred_jobs: int  # of the queued ones: a window has left them for later; at most MOST are counted
    queue_oldest_seconds: float | None  # since the oldest batch that has queued jobs was submitted
    tiers: Mapping[str, TierGauges]
    open_calls: Mapping[str, int]  # intent, unknown -> paid calls
    unknown_micro_usd: int  # spent on calls whose answer was lost
    window_seconds: Sequence[float]  # that the newest windows took to decide, ascending
    wait_seconds: Sequence[float]  # from submission to assignment, of the newest microbatches' oldest jobs
    window_age_seconds: float | None  # since the last window was committed; None = there was none
    findings: Mapping[str, int]  # of all sweeps so far
    overdue_claims: int  # whose lease has ended, at most MOST
    workers: Mapping[tuple[str, str], int]  # (tier, state) -> workers heard of within an hour
    leads: bool  # whether some scheduler's term runs
    deliveries: Mapping[str, int]  # pending, given_up -> webhook deliveries, at most MOST of each
    delivery_late_seconds: float | None  # since the first pending delivery should have been tried


def gauges(engine: Engine) -> Gauges:
    """Ask the database, in one read transaction.

    Raises:
        ServiceUnavailable: it does not answer.
        SchemaMismatch: it has not our tables.
    """
    with reading(engine) as connection:
        waiting = run(
            connection,
            """SELECT COALESCE(sum(w.jobs), 0) AS jobs, COALESCE(sum(w.pictures), 0) AS pictures,
                      {NOW} - min(b.created_ms) AS age_ms
                FROM waiting w JOIN batch b ON b.id = w.batch_id WHERE w.jobs > 0""",
        ).one()
        reserved = _reserved(connection)
        calls = _open_calls(connection)
        took, age = _windows(connection)
        return Gauges(
            queued_jobs=int(waiting.jobs),
            queued_pictures=int(waiting.pictures),
            deferred_jobs=_deferred(connection),
            queue_oldest_seconds=None if waiting.age_ms is None else waiting.age_ms / 1000,
            tiers={
                tier: _tier(connection, tier, reserved=reserved.get(tier, 0))
                for tier in speeds.tiers(connection)
            },
            open_calls={state: number for state, (number, _) in calls.items()},
            unknown_micro_usd=calls["unknown"][1],
            window_seconds=took,
            wait_seconds=_waits(connection),
            window_age_seconds=age,
            findings={
                row.finding: row.total for row in run(connection, "SELECT finding, total FROM sweep_finding")
            },
            overdue_claims=_overdue(connection),
            workers=_workers(connection),
            leads=run(connection, "SELECT 1 FROM leader WHERE expires_ms > {NOW}").scalar() is not None,
            deliveries={state: _deliveries(connection, state) for state in ("pending", "given_up")},
            delivery_late_seconds=_late(connection),
        )


def _deferred(connection: Connection) -> int:
    return int(
        run(
            connection,
            """SELECT count(*) FROM (SELECT 1 FROM job WHERE state = 'queued' AND not_before_ms > 0
                AND not_before_ms > {NOW} LIMIT :most) AS later""",
            {"most": MOST},
        ).scalar_one()
    )


def _tier(connection: Connection, tier: str, *, reserved: int) -> TierGauges:
    microbatches, jobs, ages = {}, {}, []
    for state in ("ready", "sent", "claimed"):
        at = {"tier": tier, "state": state}
        found: int = run(
            connection, "SELECT count(*) FROM microbatch WHERE tier = :tier AND state = :state", at
        ).scalar_one()
        microbatches[state], jobs[state] = found, 0
        if not found:
            continue
        looked_at = min(found, SAMPLE)
        row = run(
            connection,
            """SELECT count(*) AS jobs, {NOW} - min(j.created_ms) AS age_ms FROM (
                   SELECT id FROM microbatch WHERE tier = :tier AND state = :state ORDER BY id LIMIT :sample
               ) AS m JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL
               WHERE j.state = 'assigned'""",
            at | {"sample": looked_at},
        ).one()
        jobs[state] = round(row.jobs * found / looked_at)
        if row.age_ms is not None:
            ages.append(row.age_ms / 1000)
    return TierGauges(
        microbatches=microbatches, jobs=jobs, oldest_seconds=max(ages, default=None),
        reserved_micro_usd=reserved,
    )  # fmt: skip


def _reserved(connection: Connection) -> dict[str, int]:
    rows = run(
        connection,
        "SELECT tier, sum(reserved_left) AS left_usd FROM microbatch WHERE reserved_left > 0 GROUP BY tier",
    )
    return {row.tier: int(row.left_usd) for row in rows}


def _open_calls(connection: Connection) -> dict[str, tuple[int, int]]:
    rows = run(
        connection,
        """SELECT state, count(*) AS calls, sum(cost_max) AS cost FROM (
               SELECT state, cost_max FROM call WHERE state IN ('intent', 'unknown') LIMIT :most) AS o
           GROUP BY state""",
        {"most": MOST},
    )
    return {"intent": (0, 0), "unknown": (0, 0)} | {row.state: (row.calls, int(row.cost)) for row in rows}


def _windows(connection: Connection) -> tuple[list[float], float | None]:
    rows = run(
        connection,
        """SELECT solve_us, {NOW} - committed_ms AS age_ms FROM decision_window
            ORDER BY id DESC LIMIT :newest""",
        {"newest": NEWEST},
    ).all()
    return sorted(row.solve_us / 1e6 for row in rows), rows[0].age_ms / 1000 if rows else None


def _waits(connection: Connection) -> list[float]:
    """Return the seconds from submission to decision of the newest microbatches' oldest jobs, ascending."""
    rows = run(
        connection,
        """SELECT m.created_ms - min(j.created_ms) AS wait_ms FROM (
               SELECT id, created_ms FROM microbatch WHERE parent_id IS NULL ORDER BY id DESC LIMIT :newest
           ) AS m JOIN job j ON j.microbatch_id = m.id AND j.microbatch_id IS NOT NULL
           GROUP BY m.id, m.created_ms""",
        {"newest": NEWEST},
    )
    return sorted(max(row.wait_ms, 0) / 1000 for row in rows)


def _overdue(connection: Connection) -> int:
    return int(
        run(
            connection,
            """SELECT count(*) FROM (SELECT 1 FROM microbatch
                WHERE state = 'claimed' AND lease_until_ms < {NOW} LIMIT :most) AS late""",
            {"most": MOST},
        ).scalar_one()
    )


def _workers(connection: Connection) -> dict[tuple[str, str], int]:
    rows = run(
        connection,
        """SELECT tier, state, count(*) AS workers FROM worker WHERE heartbeat_ms > {NOW} - 3600000
            GROUP BY tier, state""",
    )
    return {(row.tier, row.state): row.workers for row in rows}


def _deliveries(connection: Connection, state: str) -> int:
    return int(
        run(
            connection,
            f"""SELECT count(*) FROM (SELECT 1 FROM webhook_delivery WHERE state = '{state}'
                LIMIT :most) AS d""",  # noqa: S608 - a word of this module: a partial index needs it written
            {"most": MOST},
        ).scalar_one()
    )


def _late(connection: Connection) -> float | None:
    late: int | None = run(
        connection,
        "SELECT {NOW} - min(next_ms) FROM webhook_delivery WHERE state = 'pending' AND next_ms < {NOW}",
    ).scalar()
    return None if late is None else late / 1000


@dataclass(kw_only=True)
class Sums:
    """What outcomes came to, in whole numbers: in which order they are added up makes no difference."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter)  # (tier, state); "" = no tier had it
    failures: Counter[tuple[str, str]] = field(default_factory=Counter)  # (tier, class of the error)
    micro_usd: Counter[str] = field(default_factory=Counter)  # tier -> charged
    device_us: Counter[str] = field(default_factory=Counter)  # tier -> microseconds of the device
    attempts: Counter[tuple[str, str]] = field(default_factory=Counter)  # (tier, OK or class of the error)

    def with_(self, other: "Sums") -> "Sums":
        """Return the sums of both."""
        return Sums(
            jobs=self.jobs + other.jobs,
            failures=self.failures + other.failures,
            micro_usd=_added(self.micro_usd, other.micro_usd),
            device_us=_added(self.device_us, other.device_us),
            attempts=self.attempts + other.attempts,
        )


def _added(one: Counter[str], other: Counter[str]) -> Counter[str]:
    """Return the sums, those that are 0 too: Counter's own `+` drops them."""
    return Counter({name: one[name] + other[name] for name in {**one, **other}})


class Totals:
    """Outcomes of all time, each read once: those that are settled are remembered, the newest read anew.

    An attempt counts when its job ends. One thread at a time.
    """

    def __init__(self) -> None:
        self._settled = Sums()  # of outcomes up to `_until_ms`
        self._until_ms = -1

    def read(self, engine: Engine) -> Sums:
        """Return the sums of now: the first time of all outcomes, later of what came since.

        Raises:
            ServiceUnavailable: the database does not answer.
        """
        with reading(engine) as connection:
            now: int = run(connection, "SELECT {NOW}").scalar_one()
            until = max(now - SETTLED_MS, self._until_ms)
            if now < self._until_ms:  # the clock went back, and what comes now would be taken for read
                self._settled, self._until_ms, until = Sums(), -1, now - SETTLED_MS
            if until > self._until_ms:
                self._settled = self._settled.with_(_sums(connection, after=self._until_ms, until=until))
                self._until_ms = until
            return self._settled.with_(_sums(connection, after=until, until=None))


def _sums(connection: Connection, *, after: int, until: int | None) -> Sums:
    """Add up the outcomes of a stretch of time: after one moment, up to another and including it."""
    found = Sums()
    stretch = "o.at_ms > :after" + ("" if until is None else " AND o.at_ms <= :until")
    given = {"after": after} | ({} if until is None else {"until": until})
    for row in run(
        connection,
        f"""SELECT COALESCE(o.tier, '') AS tier, o.state,
                   CASE WHEN o.state = 'failed' THEN o.error_class END AS error_class,
                   count(*) AS jobs, sum(o.micro_usd) AS micro_usd,
                   sum(CAST(round(o.seconds * 1000000) AS bigint)) AS device_us
            FROM outcome o WHERE {stretch} GROUP BY 1, 2, 3""",  # noqa: S608 - texts of this function
        given,
    ):
        found.jobs[row.tier, row.state] += row.jobs
        found.micro_usd[row.tier] += int(row.micro_usd)
        found.device_us[row.tier] += int(row.device_us)
        if row.state == "failed":
            found.failures[row.tier, row.error_class or "unknown"] += row.jobs
    for row in run(
        connection,
        f"""SELECT COALESCE(o.tier, '') AS tier, a.error_class, count(*) AS attempts
            FROM outcome o JOIN attempt a ON a.job_id = o.job_id WHERE {stretch} GROUP BY 1, 2""",  # noqa: S608
        given,
    ):
        found.attempts[row.tier, row.error_class or OK] += row.attempts
    return found
