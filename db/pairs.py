"""Pairs of pictures: what both tiers made of one job, read from the view `shadow_pair`.

Read only. It knows which tier drew which picture, not which tier is the light one, and computes no PRS
(`scheduler.drift`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Row

from db.dialects import run
from db.session import reading
from db.story import at
from routet2i.contracts import Yardstick


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One picture of a pair."""

    model_id: str
    scores: Mapping[str, float]  # metric -> measured [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowPair:
    """One job of a user with its picture and its shadow's, drawn from the same prompt and seed."""

    job_id: str
    shadow_job_id: str
    prompt: str
    window_id: str
    committed_at: datetime  # of the window
    predictor_name: str
    predictor_version: str
    prs: float  # predicted when the job was decided
    propensity: float  # probability with which the job got its shadow
    tier: str  # that the user's picture is from
    sides: Mapping[str, Side]  # tier -> its picture; two tiers


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowSpending:
    """What the shadows of one batch's jobs came to so far."""

    jobs: int  # shadows
    unfinished: int
    spent_micro_usd: int


def shadow_pairs(
    connection: Connection, *, batch_id: str | None, version: str | None, limit: int | None
) -> list[ShadowPair]:
    """Return the complete pairs, oldest first; see `Repository.shadow_pairs`."""
    filters = {"batch_id": batch_id, "predictor_version": version}
    chosen: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
    where = " AND ".join(f"{name} = :{name}" for name in chosen) or "1 = 1"
    newest = "" if limit is None else "LIMIT :limit"
    found = run(
        connection,
        f"""SELECT * FROM shadow_pair WHERE {where}
            ORDER BY shadow_job_id DESC {newest}""",  # noqa: S608 - names of this module
        chosen if limit is None else chosen | {"limit": limit},
    ).all()
    return [_pair(row) for row in reversed(found)]


def newest_pairs(engine: Engine, *, limit: int) -> list[ShadowPair]:
    """Return the complete pairs among so many of the newest shadows, oldest first: quick at any size."""
    with reading(engine) as connection:
        found = run(
            connection,
            # as the view `shadow_pair`, beginning with the newest: PostgreSQL reorders eight tables at most
            """SELECT j.id AS job_id, s.id AS shadow_job_id, j.prompt, a.window_id, w.committed_ms,
                    w.predictor_name, w.predictor_version, a.prs AS prs_predicted, a.propensity, a.tier,
                    o.model_id, p.scores, b.tier AS shadow_tier, u.model_id AS shadow_model_id,
                    q.scores AS shadow_scores
                FROM (SELECT id, shadow_of FROM job WHERE shadow_of IS NOT NULL
                      ORDER BY id DESC LIMIT :limit) AS s
                JOIN job j ON j.id = s.shadow_of
                JOIN assignment a ON a.job_id = j.id
                JOIN assignment b ON b.job_id = s.id
                JOIN decision_window w ON w.id = a.window_id
                JOIN outcome o ON o.job_id = j.id
                JOIN outcome u ON u.job_id = s.id
                JOIN picture p ON p.job_id = j.id AND p.idx = 0
                JOIN picture q ON q.job_id = s.id AND q.idx = 0
                ORDER BY s.id""",
            {"limit": limit},
        )
        return [_pair(row) for row in found]


def _pair(row: Row[Any]) -> ShadowPair:
    return ShadowPair(
        job_id=row.job_id,
        shadow_job_id=row.shadow_job_id,
        prompt=row.prompt,
        window_id=row.window_id,
        committed_at=at(row.committed_ms),
        predictor_name=row.predictor_name,
        predictor_version=row.predictor_version,
        prs=row.prs_predicted,
        propensity=row.propensity,
        tier=row.tier,
        sides={
            row.tier: Side(model_id=row.model_id, scores=orjson.loads(row.scores)),
            row.shadow_tier: Side(model_id=row.shadow_model_id, scores=orjson.loads(row.shadow_scores)),
        },
    )


def yardsticks(connection: Connection) -> dict[tuple[str, str], Yardstick]:
    """Return what each predictor version measures PRS with; see `Repository.yardsticks`."""
    found = run(connection, "SELECT * FROM yardstick").all()
    return {
        (row.predictor_name, row.predictor_version): Yardstick(
            weights=orjson.loads(row.weights), spans=orjson.loads(row.spans)
        )
        for row in found
    }


def shadow_spending(connection: Connection, batch_id: str) -> ShadowSpending:
    """Return what the shadows of a batch's jobs came to so far; see `Repository.shadow_spending`."""
    row = run(
        connection,
        """SELECT count(*) AS jobs, count(*) - count(o.job_id) AS unfinished,
                COALESCE(sum(o.micro_usd), 0) AS spent
            FROM job j JOIN job s ON s.shadow_of = j.id AND s.shadow_of IS NOT NULL
            LEFT JOIN outcome o ON o.job_id = s.id WHERE j.batch_id = :batch_id""",
        {"batch_id": batch_id},
    ).one()
    return ShadowSpending(jobs=row.jobs, unfinished=row.unfinished, spent_micro_usd=int(row.spent))
