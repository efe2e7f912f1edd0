"""Lines of what a batch has left: pictures that came, and what did not, page by page in file order.

Read only. A page is a transaction of its own, so that a slow reader holds nothing. It knows rows; how a line
is written is `scheduler.answer_lines`' affair.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row

from db.dialects import pack_ids, run
from db.session import reading
from routet2i.errors import NotFound

PAGE = 200  # lines


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveredPicture:
    """One picture."""

    sha256: str
    seed: int
    width: int
    height: int
    scores: str  # JSON, metric -> measured [0, 1]
    deleted: bool  # its bytes are gone


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveredJob:
    """A job whose pictures are there."""

    line_no: int
    job_id: str
    custom_id: str
    response_format: str | None
    tier: str
    reason: str | None
    prs: float | None
    micro_usd: int  # charged
    seconds: float  # of the device
    model_id: str | None
    width: int | None  # pixels asked for
    height: int | None
    at_ms: int  # when it came
    pictures: tuple[DeliveredPicture, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class MissingLine:
    """A line of the file that has no pictures."""

    line_no: int
    job_id: str | None  # None = it never became a job
    custom_id: str | None
    state: str  # rejected, failed, cancelled
    error_class: str | None
    error: str
    remedy: str | None  # of a line that was rejected
    code: str | None  # likewise, for programs; None = none of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """How far a batch has come."""

    state: str  # of the batch: ingesting, open, cancelled
    accepted: int  # jobs
    rejected: int  # lines that are none
    succeeded: int
    failed: int
    cancelled: int

    @property
    def over(self) -> bool:
        """Whether every job is final."""
        return self.state != "ingesting" and self.succeeded + self.failed + self.cancelled == self.accepted


def tally(engine: Engine, batch_id: str) -> Tally:
    """Count a batch's outcomes; raises NotFound."""
    with reading(engine) as connection:
        batch = run(
            connection, "SELECT state, n_accepted, n_rejected FROM batch WHERE id = :id", {"id": batch_id}
        ).one_or_none()
        if batch is None:
            raise NotFound(f"no batch {batch_id}")
        counted: dict[str, int] = {
            row.state: row.jobs
            for row in run(
                connection,
                """SELECT o.state, count(*) AS jobs FROM job j JOIN outcome o ON o.job_id = j.id
                    WHERE j.batch_id = :id GROUP BY o.state""",
                {"id": batch_id},
            )
        }
    return Tally(
        state=batch.state,
        accepted=batch.n_accepted,
        rejected=batch.n_rejected,
        succeeded=counted.get("succeeded", 0),
        failed=counted.get("failed", 0),
        cancelled=counted.get("cancelled", 0),
    )


def delivered(engine: Engine, batch_id: str) -> Iterator[DeliveredJob]:
    """Yield the jobs of a batch whose pictures are there, in file order."""
    after = 0
    while True:
        with reading(engine) as connection:
            jobs = run(
                connection,
                """SELECT j.seq, j.id, j.custom_id, j.response_format, j.width, j.height, o.tier, o.micro_usd,
                          o.seconds, o.model_id, o.at_ms, a.reason, a.prs
                    FROM job j JOIN outcome o ON o.job_id = j.id LEFT JOIN assignment a ON a.job_id = j.id
                    WHERE j.batch_id = :id AND j.seq > :after AND o.state = 'succeeded'
                    ORDER BY j.seq LIMIT :limit""",
                {"id": batch_id, "after": after, "limit": PAGE},
            ).all()
            pictures = _pictures(connection, [row.id for row in jobs])
        for row in jobs:
            yield DeliveredJob(
                line_no=row.seq,
                job_id=row.id,
                custom_id=row.custom_id,
                response_format=row.response_format,
                tier=row.tier,
                reason=row.reason,
                prs=row.prs,
                micro_usd=row.micro_usd,
                seconds=row.seconds,
                model_id=row.model_id,
                width=row.width,
                height=row.height,
                at_ms=row.at_ms,
                pictures=tuple(pictures[row.id]),
            )
        if len(jobs) < PAGE:
            return
        after = jobs[-1].seq


def _pictures(connection: Connection, job_ids: Sequence[str]) -> dict[str, list[DeliveredPicture]]:
    found: dict[str, list[DeliveredPicture]] = defaultdict(list)
    rows: Sequence[Row[Any]] = run(
        connection,
        """SELECT p.*, d.job_id IS NOT NULL AS deleted FROM picture p
            LEFT JOIN picture_deletion d ON d.job_id = p.job_id AND d.idx = p.idx
            WHERE p.job_id IN {IDS} ORDER BY p.job_id, p.idx""",
        {"ids": pack_ids(job_ids)},
    ).all()
    for row in rows:
        found[row.job_id].append(
            DeliveredPicture(
                sha256=row.sha256,
                seed=row.seed,
                width=row.width,
                height=row.height,
                scores=row.scores,
                deleted=bool(row.deleted),
            )
        )
    return found


def missing(engine: Engine, batch_id: str) -> Iterator[MissingLine]:
    """Yield the lines of a batch's file that have no pictures and will have none, in file order."""
    after = 0
    while True:
        with reading(engine) as connection:
            found = run(
                connection,
                """SELECT * FROM (
                        SELECT line_no, NULL AS job_id, custom_id, 'rejected' AS state, NULL AS error_class,
                               reason AS error, remedy, code
                        FROM rejected WHERE batch_id = :id AND line_no > :after
                        UNION ALL
                        SELECT j.seq, j.id, j.custom_id, o.state, o.error_class, o.error, NULL, NULL
                        FROM job j JOIN outcome o ON o.job_id = j.id
                        WHERE j.batch_id = :id AND j.seq > :after AND o.state <> 'succeeded'
                    ) AS q ORDER BY line_no LIMIT :limit""",
                {"id": batch_id, "after": after, "limit": PAGE},
            ).all()
        for row in found:
            yield MissingLine(
                line_no=row.line_no,
                job_id=row.job_id,
                custom_id=row.custom_id,
                state=row.state,
                error_class=row.error_class,
                error=row.error or "",
                remedy=row.remedy,
                code=row.code,
            )
        if len(found) < PAGE:
            return
        after = found[-1].line_no
