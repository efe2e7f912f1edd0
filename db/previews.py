"""Previews that are kept: what was promised for each line of a file, and to which queued jobs.

It knows rows, not how a promise is made (`scheduler.preview_lines`) or kept (`scheduler.locked`). A preview
is written in several transactions; before its last line is there, nobody can submit it.
"""

from collections.abc import Iterable, Sequence

import orjson
from sqlalchemy import Connection

from db.dialects import pack_ids, run, run_rows
from routet2i.contracts import Assignment, PreviewHead, PreviewLine, StoredPreview
from routet2i.errors import Conflict


def add(connection: Connection, preview_id: str, head: PreviewHead) -> None:
    """Write what a preview was made of; its lines follow."""
    run(
        connection,
        """INSERT INTO preview(id, file_sha256, fmt, predictor_name, predictor_version, budget_micro_usd,
                               jobs, micro_usd, created_ms)
            VALUES(:id, :file_sha256, :fmt, :predictor_name, :predictor_version, :budget_micro_usd, :jobs,
                   :micro_usd, {NOW})""",
        {
            "id": preview_id,
            "file_sha256": head.file_sha256,
            "fmt": head.fmt,
            "predictor_name": head.predictor_name,
            "predictor_version": head.predictor_version,
            "budget_micro_usd": head.budget_micro_usd,
            "jobs": head.jobs,
            "micro_usd": head.micro_usd,
        },
    )


def add_lines(connection: Connection, preview_id: str, lines: Sequence[PreviewLine]) -> None:
    """Write some lines of a preview, at least one."""
    run_rows(
        connection,
        """INSERT INTO preview_line(preview_id, seq, tier, reason, prs, threshold, micro_usd, scores)
            SELECT {preview_id:text}, {seq:integer}, {tier:text}, {reason:text}, {prs:double precision},
                   {threshold:double precision}, {micro_usd:bigint}, {scores:text} {EACH}""",
        [
            {
                "preview_id": preview_id,
                "seq": line.line_no,
                "tier": line.tier,
                "reason": line.reason,
                "prs": line.prs,
                "threshold": line.threshold,
                "micro_usd": line.micro_usd,
                "scores": orjson.dumps(line.scores).decode(),
            }
            for line in lines
        ],
    )


def read(connection: Connection, preview_id: str) -> StoredPreview:
    """Return a preview that exists; raises Conflict if its writing was cut off."""
    row = run(connection, "SELECT * FROM preview WHERE id = :id", {"id": preview_id}).one()
    lines = run(
        connection,
        "SELECT seq, tier, micro_usd FROM preview_line WHERE preview_id = :id ORDER BY seq",
        {"id": preview_id},
    ).all()
    prices = {line.seq: (line.tier, line.micro_usd) for line in lines}
    if len(prices) != row.jobs:
        raise Conflict(
            f"preview {preview_id} has {len(prices)} of {row.jobs} lines: its writing was cut off; "
            "type: routet2i preview FILE"
        )
    return StoredPreview(
        preview_id=preview_id,
        head=PreviewHead(
            file_sha256=row.file_sha256,
            fmt=row.fmt,
            predictor_name=row.predictor_name,
            predictor_version=row.predictor_version,
            budget_micro_usd=row.budget_micro_usd,
            jobs=row.jobs,
            micro_usd=row.micro_usd,
        ),
        prices=prices,
    )


def promised(connection: Connection, job_ids: Iterable[str]) -> dict[str, Assignment]:
    """Return job id -> what its batch's preview has promised for it."""
    rows = run(
        connection,
        """SELECT j.id, p.tier, p.reason, p.prs, p.threshold, p.micro_usd, p.scores
            FROM job j JOIN batch b ON b.id = j.batch_id
            JOIN preview_line p ON p.preview_id = b.preview_id AND p.seq = j.seq
            WHERE j.id IN {IDS}""",
        {"ids": pack_ids(job_ids)},
    ).all()
    return {
        row.id: Assignment(
            job_id=row.id,
            tier=row.tier,
            reason=row.reason,
            prs=row.prs,
            threshold=row.threshold,
            micro_usd=row.micro_usd,
            scores=orjson.loads(row.scores),
        )
        for row in rows
    }
