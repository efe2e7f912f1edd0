"""Views for readers: batches, windows, tiers by day and budgets, each in one row.

Frozen: a later change comes with a migration of its own. Users' jobs and shadows are told apart, as in
`job_audit`; amounts are dollars, times ISO 8601 in UTC. What each column means is said in `db.views`.
"""

from collections.abc import Callable, Mapping

from alembic import op

Form = Callable[[str], str]  # SQL of a number -> SQL of it in another form

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SQLITE = {
    "usd": "({} / 1000000.0)",
    "iso": "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')",
    "day": "strftime('%Y-%m-%d', {} * 86400, 'unixepoch')",
    "find": "instr({}, '{}')",
    "alignment": "json_extract(p.scores, '$.alignment')",
    "minute": "strftime('%Y-%m-%dT%H:%M', 'now')",
    "hour": "strftime('%Y-%m-%dT%H', 'now')",
    "today": "strftime('%Y-%m-%d', 'now')",
    "month": "strftime('%Y-%m', 'now')",
}
UTC = "statement_timestamp() AT TIME ZONE 'UTC'"
POSTGRESQL = {
    "usd": "(CAST({} AS numeric) / 1000000)",
    "iso": """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')""",
    "day": "to_char(to_timestamp({} * 86400) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "find": "strpos({}, '{}')",
    "alignment": "CAST(CAST(p.scores AS jsonb) ->> 'alignment' AS double precision)",
    "minute": f"""to_char({UTC}, 'YYYY-MM-DD"T"HH24:MI')""",
    "hour": f"""to_char({UTC}, 'YYYY-MM-DD"T"HH24')""",
    "today": f"to_char({UTC}, 'YYYY-MM-DD')",
    "month": f"to_char({UTC}, 'YYYY-MM')",
}
VIEWS = ("batch_summary", "window_summary", "tier_daily", "budget_status")


def upgrade() -> None:
    for statement in views(op.get_context().dialect.name):
        op.execute(statement)
    # few lines of a ledger tell of purchases whose answer was lost: `budget_status` finds them at once
    op.execute(
        "CREATE INDEX ix_ledger_unknown ON ledger (budget_id, period) "
        "WHERE from_side = 'unknown' OR to_side = 'unknown'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX ix_ledger_unknown")
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")


def views(dialect: str) -> tuple[str, ...]:
    """Return the statements that make the views, in the order of VIEWS."""
    words = SQLITE if dialect == "sqlite" else POSTGRESQL
    usd, iso = words["usd"].format, words["iso"].format
    return (_batches(usd, iso), _windows(usd, iso), _tiers(usd, words), _budgets(usd, iso, words))


def _batches(usd: Form, iso: Form) -> str:
    over = "b.state <> 'ingesting' AND count(o.job_id) = b.n_accepted"
    return f"""
CREATE VIEW batch_summary AS
SELECT
    b.id AS batch_id,
    b.name AS name,
    b.client AS client,
    b.state AS state,
    CASE WHEN {over} THEN 1 ELSE 0 END AS complete,
    {iso("b.created_ms")} AS submitted_at,
    CASE WHEN {over} THEN {iso("COALESCE(max(o.at_ms), b.created_ms)")} END AS finished_at,
    b.n_accepted AS accepted,
    b.n_rejected AS rejected,
    sum(CASE WHEN j.state = 'queued' THEN 1 ELSE 0 END) AS queued,
    sum(CASE WHEN j.state = 'assigned' AND c.id IS NULL THEN 1 ELSE 0 END) AS assigned,
    sum(CASE WHEN c.id IS NOT NULL THEN 1 ELSE 0 END) AS running,
    sum(CASE WHEN o.state = 'succeeded' THEN 1 ELSE 0 END) AS succeeded,
    sum(CASE WHEN o.state = 'failed' THEN 1 ELSE 0 END) AS failed,
    sum(CASE WHEN o.state = 'cancelled' THEN 1 ELSE 0 END) AS cancelled,
    sum(CASE WHEN o.state = 'succeeded' THEN j.n ELSE 0 END) AS pictures,
    {usd("m.lim")} AS limit_usd,
    {usd("m.reserved")} AS reserved_usd,
    {usd("m.spent")} AS spent_usd,
    {usd("m.overrun")} AS overrun_usd,
    {usd("(m.lim - m.reserved - m.spent)")} AS free_usd,
    COALESCE(sum(o.seconds), 0.0) AS device_seconds,
    b.retry_of AS retry_of,
    b.preview_id AS preview_id
FROM batch b
JOIN budget m ON m.id = 'batch:' || b.id AND m.period = 'total'
LEFT JOIN job j ON j.batch_id = b.id
LEFT JOIN outcome o ON o.job_id = j.id
LEFT JOIN microbatch c ON c.id = j.microbatch_id AND j.state = 'assigned' AND c.state = 'claimed'
WHERE b.client <> 'shadow'
GROUP BY b.id, m.id, m.period
"""  # noqa: S608 - texts of this module


def _windows(usd: Form, iso: Form) -> str:
    ours = "a.reason <> 'shadow'"
    return f"""
CREATE VIEW window_summary AS
SELECT
    w.id AS window_id,
    {iso("w.committed_ms")} AS decided_at,
    w.policy AS policy,
    w.predictor_name AS predictor_name,
    w.predictor_version AS predictor_version,
    w.n_assigned AS assigned,
    w.n_deferred AS deferred,
    w.n_fallback AS fallback,
    sum(CASE WHEN {ours} AND o.job_id IS NOT NULL THEN 1 ELSE 0 END) AS finished,
    sum(CASE WHEN {ours} AND o.state = 'succeeded' THEN 1 ELSE 0 END) AS succeeded,
    avg(CASE WHEN {ours} THEN a.prs END) AS prs_mean,
    max(CASE WHEN {ours} THEN a.threshold END) AS prs_threshold,
    {usd("w.available_micro_usd")} AS available_usd,
    {usd(f"COALESCE(sum(CASE WHEN {ours} THEN a.micro_usd END), 0)")} AS reserved_usd,
    {usd(f"COALESCE(sum(CASE WHEN {ours} THEN o.micro_usd END), 0)")} AS charged_usd,
    sum(CASE WHEN a.reason = 'shadow' THEN 1 ELSE 0 END) AS shadows,
    {usd("COALESCE(sum(CASE WHEN a.reason = 'shadow' THEN a.micro_usd END), 0)")} AS shadow_usd,
    w.solve_us / 1000.0 AS solve_ms
FROM decision_window w
LEFT JOIN microbatch m ON m.window_id = w.id
LEFT JOIN job j ON j.microbatch_id = m.id
LEFT JOIN assignment a ON a.job_id = j.id
LEFT JOIN outcome o ON o.job_id = j.id
GROUP BY w.id
"""  # noqa: S608 - texts of this module


def _tiers(usd: Form, words: Mapping[str, str]) -> str:
    day = "(o.at_ms / 86400000)"
    ours = "j.shadow_of IS NULL"
    drawn = f"sum(CASE WHEN {ours} AND o.state = 'succeeded' THEN j.n ELSE 0 END)"
    seconds = f"sum(CASE WHEN {ours} AND o.state = 'succeeded' THEN o.seconds ELSE 0.0 END)"
    alignment = f"(SELECT sum({words['alignment']}) FROM picture p WHERE p.job_id = o.job_id)"  # noqa: S608
    attempts = "(SELECT count(*) FROM attempt t WHERE t.job_id = o.job_id)"
    return f"""
CREATE VIEW tier_daily AS
SELECT
    {words["day"].format(day)} AS day,
    o.tier AS tier,
    sum(CASE WHEN {ours} AND o.state = 'succeeded' THEN 1 ELSE 0 END) AS succeeded,
    sum(CASE WHEN {ours} AND o.state = 'failed' THEN 1 ELSE 0 END) AS failed,
    sum(CASE WHEN {ours} AND o.state = 'cancelled' THEN 1 ELSE 0 END) AS cancelled,
    {drawn} AS pictures,
    COALESCE(sum(CASE WHEN {ours} THEN {attempts} END), 0) AS attempts,
    {usd(f"COALESCE(sum(CASE WHEN {ours} THEN o.micro_usd END), 0)")} AS charged_usd,
    COALESCE(sum(CASE WHEN {ours} THEN o.seconds END), 0.0) AS device_seconds,
    {seconds} / NULLIF({drawn}, 0) AS seconds_per_picture,
    sum(CASE WHEN {ours} THEN {alignment} END) / NULLIF({drawn}, 0) AS alignment_mean,
    sum(CASE WHEN {ours} THEN 0 ELSE 1 END) AS shadows,
    {usd(f"COALESCE(sum(CASE WHEN {ours} THEN 0 ELSE o.micro_usd END), 0)")} AS shadow_usd
FROM outcome o
JOIN job j ON j.id = o.job_id
WHERE o.tier IS NOT NULL
GROUP BY {day}, o.tier
"""  # noqa: S608 - texts of this module


def _budgets(usd: Form, iso: Form, words: Mapping[str, str]) -> str:
    def find(text: str, sign: str) -> str:
        return words["find"].format(text, sign)

    own = f"substr(m.id, {find('m.id', ':')} + 1)"
    slash = find(own, "/")
    unknown = """COALESCE((SELECT sum(CASE WHEN l.to_side = 'unknown' THEN l.micro_usd ELSE -l.micro_usd END)
              FROM ledger l WHERE l.budget_id = s.budget_id AND l.period = s.period
               AND (l.from_side = 'unknown' OR l.to_side = 'unknown')), 0)"""
    return f"""
CREATE VIEW budget_status AS
SELECT
    s.budget_id AS budget_id,
    s.scope AS scope,
    s.name AS name,
    s.span AS span,
    s.period AS period,
    CASE s.span
        WHEN 'total' THEN 1
        WHEN 'minute' THEN CASE WHEN s.period = {words["minute"]} THEN 1 ELSE 0 END
        WHEN 'hour' THEN CASE WHEN s.period = {words["hour"]} THEN 1 ELSE 0 END
        WHEN 'day' THEN CASE WHEN s.period = {words["today"]} THEN 1 ELSE 0 END
        WHEN 'month' THEN CASE WHEN s.period = {words["month"]} THEN 1 ELSE 0 END
    END AS runs_now,
    {usd("s.lim")} AS limit_usd,
    {usd("s.carried")} AS carried_usd,
    {usd("s.reserved")} AS reserved_usd,
    {usd("s.spent")} AS spent_usd,
    {usd(unknown)} AS unknown_usd,
    {usd("s.overrun")} AS overrun_usd,
    {usd("(s.lim - s.reserved - s.spent)")} AS free_usd,
    p.who AS set_by,
    p.reason AS reason,
    {iso("p.at_ms")} AS set_at
FROM (
    SELECT m.id AS budget_id, m.period AS period, m.lim AS lim, m.carried AS carried,
           m.reserved AS reserved, m.spent AS spent, m.overrun AS overrun,
           substr(m.id, 1, {find("m.id", ":")} - 1) AS scope,
           CASE WHEN {slash} > 0 THEN substr({own}, 1, {slash} - 1) ELSE {own} END AS name,
           CASE WHEN {slash} > 0 THEN substr({own}, {slash} + 1)
                WHEN m.period = 'total' THEN 'total' ELSE 'seconds' END AS span
    FROM budget m
) s
LEFT JOIN budget_policy p ON p.scope = s.scope AND p.name = s.name AND p.span = s.span
    AND NOT EXISTS (SELECT 1 FROM budget_policy q
                     WHERE q.name = p.name AND q.scope = p.scope AND q.span = p.span AND q.id > p.id)
"""  # noqa: S608 - texts of this module
