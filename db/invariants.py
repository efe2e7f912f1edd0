"""The promises of reliability.md section 1, on shadows, previews, queue and retries (I11 to I15), as SQL.

Read only. It knows what SQL can see: not the picture files (I5 beyond its rows), not a provider's bill (I4
beyond what we recorded of it) and not what a model makes of equal inputs (I10).
"""

from dataclasses import dataclass

from sqlalchemy import Engine

from db.dialects import run
from db.session import reading
from db.waiting import COUNTED

SHOWN = 20  # violations per check: a broken promise is rarely broken once


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One broken promise."""

    invariant: str  # I1 to I15
    detail: str  # which row, and what is wrong with it


def _side(name: str) -> str:
    """Return SQL for what the ledger lines of a group have left on one side."""
    more, less = f"to_side = '{name}'", f"from_side = '{name}'"
    return f"sum(CASE WHEN {more} THEN micro_usd WHEN {less} THEN -micro_usd ELSE 0 END)"


CHECKS = (  # (invariant, what is wrong, statement that returns one text per wrong row)
    (
        "I1",
        "is done without an outcome",
        """SELECT 'job ' || j.id FROM job j LEFT JOIN outcome o ON o.job_id = j.id
            WHERE j.state = 'done' AND o.job_id IS NULL""",
    ),
    (
        "I1",
        "has an outcome but is not done",
        "SELECT 'job ' || j.id FROM job j JOIN outcome o ON o.job_id = j.id WHERE j.state <> 'done'",
    ),
    (
        "I1",
        "is assigned to no living microbatch, so it would wait for ever",
        """SELECT 'job ' || j.id FROM job j LEFT JOIN microbatch m ON m.id = j.microbatch_id
            WHERE j.state = 'assigned' AND (m.id IS NULL OR m.state NOT IN ('ready', 'sent', 'claimed'))""",
    ),
    (
        "I1",
        "is queued but belongs to a microbatch",
        "SELECT 'job ' || id FROM job WHERE state = 'queued' AND microbatch_id IS NOT NULL",
    ),
    (
        "I1",
        "is queued in a cancelled batch",
        """SELECT 'job ' || j.id FROM job j JOIN batch b ON b.id = j.batch_id
            WHERE j.state = 'queued' AND b.state = 'cancelled'""",
    ),
    (
        "I2",
        "has another number of jobs than it accepted",
        """SELECT 'batch ' || b.id FROM batch b
            WHERE b.n_accepted <> (SELECT count(*) FROM job j WHERE j.batch_id = b.id)""",
    ),
    (
        "I2",
        "belongs to another client than its batch",
        """SELECT 'job ' || j.id FROM job j JOIN batch b ON b.id = j.batch_id
            WHERE j.client <> b.client""",
    ),
    (
        "I2",
        "has another number of rejections than it counted",
        """SELECT 'batch ' || b.id FROM batch b
            WHERE b.n_rejected <> (SELECT count(*) FROM rejected r WHERE r.batch_id = b.id)""",
    ),
    (
        "I3",
        "exceeds its limit",
        """SELECT 'budget ' || id || '/' || period FROM budget
            WHERE reserved < 0 OR spent < 0 OR carried < 0 OR overrun < 0 OR reserved + spent > lim""",
    ),
    (
        "I4",
        "is out, though its job has its outcome",
        """SELECT 'call ' || c.id FROM call c JOIN job j ON j.id = c.job_id
            WHERE c.state = 'intent' AND j.state = 'done'""",
    ),
    (
        "I4",
        "is out, though nobody has its microbatch and nobody could ask for it again",
        """SELECT 'call ' || c.id FROM call c JOIN job j ON j.id = c.job_id
            JOIN microbatch m ON m.id = j.microbatch_id
            WHERE c.state = 'intent' AND c.repeatable = 0 AND c.remote_id IS NULL AND m.state <> 'claimed'""",
    ),
    (
        "I4",
        "has cost something else than its accounts were charged",
        """SELECT 'call ' || c.id FROM call c JOIN microbatch m ON m.id = c.microbatch_id
            JOIN ledger r ON r.event_id = 'reserve:' || COALESCE(m.parent_id, m.id)
            WHERE CASE c.state WHEN 'charged' THEN c.cost_actual - c.overrun
                               WHEN 'unknown' THEN c.cost_max ELSE 0 END
               <> (SELECT COALESCE(sum(CASE WHEN l.to_side IN ('spent', 'unknown') THEN l.micro_usd ELSE 0 END
                                     - CASE WHEN l.from_side = 'unknown' THEN l.micro_usd ELSE 0 END), 0)
                   FROM ledger l WHERE l.budget_id = r.budget_id AND l.period = r.period
                   AND l.event_id IN ('settle:' || c.id, 'unknown:' || c.id, 'adjust:' || c.id,
                                      'void:' || c.id))
               OR c.overrun <> (SELECT COALESCE(sum(l.micro_usd), 0) FROM ledger l
                   WHERE l.event_id = 'overrun:' || c.id AND l.budget_id = r.budget_id
                   AND l.period = r.period)""",
    ),
    (
        "I4",
        "has a picture that none of its paid calls has brought",
        """SELECT 'job ' || p.job_id FROM picture p
            WHERE EXISTS (SELECT 1 FROM call c WHERE c.job_id = p.job_id)
              AND NOT EXISTS (SELECT 1 FROM call c WHERE c.job_id = p.job_id AND c.idx = p.idx
                              AND c.state = 'charged' AND c.image_sha256 = p.sha256)""",
    ),
    (
        "I5",
        "succeeded without all of its pictures",
        """SELECT 'job ' || j.id FROM job j JOIN outcome o ON o.job_id = j.id
            WHERE o.state = 'succeeded' AND j.n <> (SELECT count(*) FROM picture p WHERE p.job_id = j.id)""",
    ),
    (
        "I6",
        "has an outcome by a claim that never took it",
        """SELECT 'job ' || o.job_id FROM outcome o LEFT JOIN attempt a
            ON a.job_id = o.job_id AND a.microbatch_id = o.microbatch_id AND a.fence = o.fence
            WHERE o.state <> 'cancelled' AND a.job_id IS NULL""",
    ),
    (
        "I6",
        "was attempted by a newer claim than the one that wrote its outcome",
        """SELECT 'job ' || o.job_id FROM outcome o JOIN attempt a ON a.job_id = o.job_id
            WHERE o.fence IS NOT NULL AND (
                (a.microbatch_id = o.microbatch_id AND a.fence > o.fence)
                OR (a.microbatch_id <> o.microbatch_id AND a.started_ms > o.at_ms))""",
    ),
    (
        "I6",
        "has an attempt that runs without a current claim",
        """SELECT 'job ' || a.job_id FROM attempt a JOIN microbatch m ON m.id = a.microbatch_id
            WHERE a.ended_ms IS NULL AND (m.state <> 'claimed' OR m.fence <> a.fence)""",
    ),
    (
        "I7",
        "is final but still holds money",
        """SELECT 'microbatch ' || id FROM microbatch
            WHERE reserved_left <> 0 AND state IN ('done', 'split', 'dead', 'cancelled')""",
    ),
    (
        "I7",
        "is not final but has no unfinished job",
        """SELECT 'microbatch ' || m.id FROM microbatch m WHERE m.state IN ('ready', 'sent')
            AND NOT EXISTS (
                SELECT 1 FROM job j WHERE j.microbatch_id = m.id AND j.state = 'assigned')""",
    ),
    (
        "I8",
        "differs from the sides of its ledger lines",
        f"""SELECT 'budget ' || b.id || '/' || b.period FROM budget b
            LEFT JOIN (
                SELECT budget_id, period, {_side("available")} AS available, {_side("reserved")} AS reserved,
                       {_side("spent")} + {_side("unknown")} AS spent, {_side("overrun")} AS overrun
                FROM ledger GROUP BY budget_id, period) l ON l.budget_id = b.id AND l.period = b.period
            WHERE COALESCE(l.available, 0) <> COALESCE(b.lim, 0) - b.reserved - b.spent
               OR COALESCE(l.reserved, 0) <> b.reserved OR COALESCE(l.spent, 0) <> b.spent
               OR COALESCE(l.overrun, 0) <> b.overrun""",  # noqa: S608 - constants
    ),
    (
        "I8",
        "carries more or less into a period than it takes out of another",
        f"""SELECT 'event ' || event_id FROM ledger WHERE kind = 'carry'
            GROUP BY event_id HAVING {_side("carried")} <> 0""",  # noqa: S608 - a constant
    ),
    (
        "I8",
        "is posted with another sum to one of its accounts than to another",
        """SELECT 'event ' || event_id FROM ledger WHERE kind <> 'carry'
            GROUP BY event_id HAVING min(micro_usd) <> max(micro_usd)""",
    ),
    (
        "I8",
        "holds another sum than its unfinished jobs were promised",
        """SELECT 'microbatch ' || m.id FROM microbatch m
            WHERE m.reserved_left <> (
                SELECT COALESCE(sum(a.micro_usd - COALESCE((
                    SELECT sum(c.drawn) FROM call c WHERE c.job_id = j.id), 0)), 0)
                FROM job j JOIN assignment a ON a.job_id = j.id
                WHERE j.microbatch_id = m.id AND j.state = 'assigned')""",
    ),
    (
        "I8",
        "has reserved another sum than its microbatches and open calls hold",
        """SELECT 'budget ' || b.id || '/' || b.period FROM budget b
            LEFT JOIN (
                SELECT l.budget_id, l.period, sum(m.reserved_left) AS held FROM (
                    SELECT id, parent_id, reserved_left FROM microbatch WHERE reserved_left > 0
                    UNION ALL
                    SELECT m.id, m.parent_id, c.cost_max FROM call c
                    JOIN microbatch m ON m.id = c.microbatch_id WHERE c.state = 'intent') m
                JOIN ledger l ON l.event_id = 'reserve:' || COALESCE(m.parent_id, m.id)
                GROUP BY l.budget_id, l.period) h ON h.budget_id = b.id AND h.period = b.period
            WHERE b.reserved <> COALESCE(h.held, 0)""",
    ),
    (
        "I8",
        "has spent another sum than its outcomes were charged and its calls have cost",
        """SELECT 'budget ' || b.id FROM budget b JOIN batch t ON b.id = 'batch:' || t.id
            WHERE b.spent <> (SELECT COALESCE(sum(o.micro_usd), 0) FROM outcome o
                               JOIN job j ON j.id = o.job_id WHERE j.batch_id = t.id
                               AND NOT EXISTS (SELECT 1 FROM call c WHERE c.job_id = j.id))
                           + (SELECT COALESCE(sum(CASE c.state WHEN 'charged' THEN c.cost_actual - c.overrun
                                                   WHEN 'unknown' THEN c.cost_max ELSE 0 END), 0)
                               FROM call c JOIN job j ON j.id = c.job_id WHERE j.batch_id = t.id)""",
    ),
    (
        "I9",
        "went to a microbatch of another tier than it was assigned to",
        """SELECT 'job ' || j.id FROM job j JOIN assignment a ON a.job_id = j.id
            JOIN microbatch m ON m.id = j.microbatch_id WHERE a.tier <> m.tier""",
    ),
    (
        "I9",
        "was attempted by a worker of another tier",
        """SELECT 'job ' || a.job_id FROM attempt a JOIN microbatch m ON m.id = a.microbatch_id
            JOIN worker w ON w.id = a.worker_id WHERE w.tier <> m.tier""",
    ),
    (
        "I12",
        "was not assigned what the preview of its batch had promised",
        """SELECT 'job ' || j.id FROM batch b JOIN job j ON j.batch_id = b.id
            JOIN assignment a ON a.job_id = j.id
            LEFT JOIN preview_line p ON p.preview_id = b.preview_id AND p.seq = j.seq
            WHERE b.preview_id IS NOT NULL
              AND (p.seq IS NULL OR p.tier <> a.tier OR p.micro_usd <> a.micro_usd OR p.reason <> a.reason
                   OR p.prs <> a.prs OR p.threshold <> a.threshold OR p.scores <> a.scores)""",
    ),
    (
        "I11",
        "is a shadow outside a batch of shadows, or a user's job inside one",
        """SELECT 'job ' || j.id FROM job j JOIN batch b ON b.id = j.batch_id
            WHERE (j.shadow_of IS NOT NULL) <> (b.client = 'shadow')""",
    ),
    (
        "I11",
        "is a shadow that asks for something else than its job",
        """SELECT 'job ' || s.id FROM job s JOIN job j ON j.id = s.shadow_of
            WHERE s.prompt <> j.prompt OR s.seed <> j.seed OR s.n <> 1 OR j.shadow_of IS NOT NULL
               OR COALESCE(s.negative_prompt, '') <> COALESCE(j.negative_prompt, '')
               OR COALESCE(s.width, 0) <> COALESCE(j.width, 0)
               OR COALESCE(s.height, 0) <> COALESCE(j.height, 0)""",
    ),
    (
        "I11",
        "is a shadow that was not assigned to the other tier, in its job's window and by its draw",
        """SELECT 'job ' || s.id FROM job s
            LEFT JOIN assignment b ON b.job_id = s.id LEFT JOIN assignment a ON a.job_id = s.shadow_of
            WHERE s.shadow_of IS NOT NULL AND (a.job_id IS NULL OR b.job_id IS NULL OR a.tier = b.tier
                OR a.window_id <> b.window_id OR b.reason <> 'shadow' OR a.propensity IS NULL)""",
    ),
    (
        "I14",
        "is a retry that asks for something else than its job, or whose job succeeded on its tier",
        """SELECT 'job ' || s.id FROM job s JOIN job j ON j.id = s.retry_of
            JOIN batch b ON b.id = s.batch_id LEFT JOIN outcome o ON o.job_id = j.id
            WHERE s.prompt <> j.prompt OR s.seed <> j.seed OR s.n <> j.n OR s.client <> j.client
               OR COALESCE(s.negative_prompt, '') <> COALESCE(j.negative_prompt, '')
               OR COALESCE(s.width, 0) <> COALESCE(j.width, 0)
               OR COALESCE(s.height, 0) <> COALESCE(j.height, 0)
               OR COALESCE(b.retry_of, '') <> j.batch_id
               OR COALESCE(o.state, 'succeeded') = 'succeeded'
                  AND (s.tier IS NULL OR s.tier = COALESCE(o.tier, s.tier))""",
    ),
    (
        "I11",
        "draws a shadow on another budget than that of its own batch",
        """SELECT 'microbatch ' || m.id FROM microbatch m JOIN batch b ON b.id = m.batch_id
            JOIN ledger l ON l.event_id = 'reserve:' || m.id
            WHERE b.client = 'shadow' AND l.budget_id <> 'batch:' || b.id""",
    ),
    (
        "I15",
        "was drawn by another tier than the one that it asked for",
        """SELECT 'job ' || j.id FROM job j JOIN assignment a ON a.job_id = j.id
            WHERE j.tier IS NOT NULL AND (a.tier <> j.tier OR a.reason <> 'requested')""",
    ),
    (
        "I13",
        "has other jobs queued than are counted as waiting",
        f"""SELECT 'batch ' || batch_id || ', size ' || width || 'x' || height || tier FROM {COUNTED}""",  # noqa: S608
    ),
)


def check_invariants(engine: Engine) -> list[Violation]:
    """Return what breaks I1 to I9, I11 to I15 now, as far as SQL can see; an empty list is good.

    I1 is judged for jobs that are done or assigned: a queued job of a living batch still has its future.
    """
    with reading(engine) as connection:
        return [
            Violation(invariant=invariant, detail=f"{row} {wrong}")
            for invariant, wrong, statement in CHECKS
            for row in run(connection, f"{statement} LIMIT {SHOWN}").scalars()
        ]
