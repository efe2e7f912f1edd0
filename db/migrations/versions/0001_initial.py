"""First schema: the tables, the view `job_audit`, and the triggers that keep history as it was written.

Frozen: a later change of `db.models` comes with a migration of its own, never with an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

METRICS = (
    "definition",
    "detail",
    "clarity",
    "sharpness",
    "harmony",
    "realism",
    "color",
    "consistency",
    "layout",
    "integrity",
    "alignment",
)
FOREVER = ("ledger", "outcome", "assignment")  # neither changed nor deleted
KEPT = (*FOREVER, "attempt")  # not deleted

# One row per picture; a job without pictures has one row. A job's cost is divided among its rows so that they
# sum exactly: the first rows carry the odd micro-dollars.
VIEW = """
CREATE VIEW job_audit AS
SELECT
    j.batch_id AS batch_id,
    j.id AS job_id,
    j.custom_id AS custom_id,
    j.prompt AS prompt,
    a.tier AS tier,
    CASE
        WHEN o.state IS NOT NULL THEN o.state
        WHEN j.state = 'assigned' AND m.state = 'claimed' THEN 'running'
        ELSE j.state
    END AS state,
    a.reason AS reason,
    a.prs AS prs_predicted,
    a.threshold AS prs_threshold,
    w.predictor_version AS predictor_version,
    {reserved} AS cost_reserved_usd,
    {charged} AS cost_charged_usd,
    {scores},
    CASE WHEN p.sha256 IS NULL THEN NULL ELSE
        'images/' || substr(p.sha256, 1, 2) || '/' || substr(p.sha256, 3, 2) || '/' || p.sha256 || '.png'
    END AS image_uri,
    p.sha256 AS image_sha256,
    o.model_id AS model_id,
    o.model_revision AS model_revision,
    COALESCE(p.seed, j.seed) AS seed,
    (SELECT count(*) FROM attempt t WHERE t.job_id = j.id) AS attempts,
    (SELECT t.worker_id FROM attempt t WHERE t.job_id = j.id
      ORDER BY t.started_ms DESC, t.microbatch_id DESC, t.fence DESC LIMIT 1) AS worker,
    {submitted} AS submitted_at,
    {assigned} AS assigned_at,
    {started} AS started_at,
    {finished} AS finished_at,
    CASE WHEN o.error IS NULL THEN o.error_class ELSE o.error_class || ': ' || o.error END AS error
FROM job j
LEFT JOIN outcome o ON o.job_id = j.id
LEFT JOIN assignment a ON a.job_id = j.id
LEFT JOIN decision_window w ON w.id = a.window_id
LEFT JOIN microbatch m ON m.id = j.microbatch_id
LEFT JOIN picture p ON p.job_id = j.id
"""
LAST_START = "(SELECT max(t.started_ms) FROM attempt t WHERE t.job_id = j.id)"  # of the deciding attempt
PICTURES = "(SELECT CASE WHEN count(*) = 0 THEN 1 ELSE count(*) END FROM picture c WHERE c.job_id = j.id)"


def _view(dialect: str) -> str:
    if dialect == "sqlite":
        usd = "({} / 1000000.0)"
        score = "json_extract(p.scores, '$.{}') AS q_{}"
        iso = "strftime('%Y-%m-%dT%H:%M:%fZ', {} / 1000.0, 'unixepoch')"
    else:
        usd = "CAST({} AS numeric) / 1000000"
        score = "CAST(CAST(p.scores AS jsonb) ->> '{}' AS double precision) AS q_{}"
        iso = """to_char(to_timestamp({} / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
    return VIEW.format(
        reserved=usd.format(_share("a.micro_usd")),
        charged=usd.format(_share("o.micro_usd")),
        scores=",\n    ".join(score.format(name, name) for name in METRICS),
        submitted=iso.format("j.created_ms"),
        assigned=iso.format("w.committed_ms"),
        started=iso.format(LAST_START),
        finished=iso.format("o.at_ms"),
    )


def _share(micro_usd: str) -> str:
    """Return SQL for this row's part of a job's micro-dollars; `idx` counts the job's pictures from 0."""
    odd = f"CASE WHEN COALESCE(p.idx, 0) < {micro_usd} % {PICTURES} THEN 1 ELSE 0 END"
    return f"({micro_usd} / {PICTURES} + {odd})"


def _forbid(dialect: str, table: str, verb: str, *, when: str = "") -> str:
    """Return the trigger that refuses `verb` on `table`, for the rows that `when` selects."""
    clause = f"WHEN ({when})" if when else ""
    if dialect == "sqlite":
        return (
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} FOR EACH ROW {clause} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    rows = "FOR EACH STATEMENT" if verb == "truncate" else "FOR EACH ROW"
    return (
        f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} {rows} {clause} "
        "EXECUTE FUNCTION refuse_change()"
    )


# An attempt may get its end once: its key and start never change, a finished one does not change at all.
ATTEMPT_IS_FIXED = (
    "OLD.ended_ms IS NOT NULL OR NEW.job_id <> OLD.job_id OR NEW.microbatch_id <> OLD.microbatch_id "
    "OR NEW.fence <> OLD.fence OR NEW.worker_id <> OLD.worker_id OR NEW.started_ms <> OLD.started_ms"
)
FUNCTION = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
END $$
"""


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    _create_tables()
    op.execute(_view(dialect))
    if dialect == "postgresql":
        op.execute(FUNCTION)
        for table in KEPT:
            op.execute(_forbid(dialect, table, "truncate"))
    for table in FOREVER:
        op.execute(_forbid(dialect, table, "update"))
    for table in KEPT:
        op.execute(_forbid(dialect, table, "delete"))
    op.execute(_forbid(dialect, "attempt", "update", when=ATTEMPT_IS_FIXED))


def downgrade() -> None:
    op.execute("DROP VIEW job_audit")
    for table in TABLES:
        op.drop_table(table)
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_change()")


TABLES = (  # in an order that no foreign key minds
    "picture",
    "outcome",
    "attempt",
    "assignment",
    "job",
    "microbatch",
    "ledger",
    "rejected",
    "batch",
    "budget",
    "decision_window",
    "leader",
    "worker",
)


def _create_tables() -> None:
    op.create_table(
        "batch",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("idem_key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("n_accepted", sa.Integer(), nullable=False),
        sa.Column("n_rejected", sa.Integer(), nullable=False),
        sa.Column("cursor_line", sa.Integer(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('ingesting', 'open', 'cancelled')", name="ck_batch_state"),
        sa.PrimaryKeyConstraint("id", name="pk_batch"),
        sa.UniqueConstraint("tenant", "idem_key", name="uq_batch_idem_key"),
    )
    op.create_table(
        "budget",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("lim", sa.BigInteger()),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "reserved >= 0 AND spent >= 0 AND (lim IS NULL OR reserved + spent <= lim)",
            name="ck_budget_within_limit",
        ),
        sa.PrimaryKeyConstraint("id", "period", name="pk_budget"),
    )
    op.create_table(
        "decision_window",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("leader_term", sa.BigInteger()),
        sa.Column("policy", sa.Text(), nullable=False),
        sa.Column("predictor_name", sa.Text(), nullable=False),
        sa.Column("predictor_version", sa.Text(), nullable=False),
        sa.Column("n_assigned", sa.Integer(), nullable=False),
        sa.Column("n_deferred", sa.Integer(), nullable=False),
        sa.Column("n_fallback", sa.Integer(), nullable=False),
        sa.Column("available_micro_usd", sa.BigInteger()),
        sa.Column("solve_us", sa.BigInteger(), nullable=False),
        sa.Column("committed_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_decision_window"),
    )
    op.create_table(
        "leader",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("term", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leader"),
    )
    op.create_table(
        "worker",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('idle', 'busy', 'draining', 'stopped', 'lost')", name="ck_worker_state"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_worker"),
    )
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("d_reserved", sa.BigInteger(), nullable=False),
        sa.Column("d_spent", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('reserve', 'settle', 'release')", name="ck_ledger_kind"),
        sa.ForeignKeyConstraint(
            ["budget_id", "period"], ["budget.id", "budget.period"], name="fk_ledger_budget_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
        sa.UniqueConstraint("event_id", "budget_id", name="uq_ledger_event"),
    )
    op.create_table(
        "microbatch",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("window_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger()),
        sa.Column("worker_id", sa.Text()),
        sa.Column("sent_at_ms", sa.BigInteger()),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("period_budget_id", sa.Text()),
        sa.Column("period", sa.Text()),
        sa.Column("reserved_left", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.Text()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger()),
        sa.CheckConstraint("(state = 'claimed') = (lease_until_ms IS NOT NULL)", name="ck_microbatch_lease"),
        sa.CheckConstraint(
            "state IN ('ready', 'sent', 'claimed', 'done', 'split', 'dead', 'cancelled')",
            name="ck_microbatch_state",
        ),
        sa.CheckConstraint("reserved_left >= 0", name="ck_microbatch_reserved_left"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_microbatch_batch_id"),
        sa.ForeignKeyConstraint(["parent_id"], ["microbatch.id"], name="fk_microbatch_parent_id"),
        sa.ForeignKeyConstraint(
            ["period_budget_id", "period"],
            ["budget.id", "budget.period"],
            name="fk_microbatch_period_budget_id",
        ),
        sa.ForeignKeyConstraint(["window_id"], ["decision_window.id"], name="fk_microbatch_window_id"),
        sa.PrimaryKeyConstraint("id", name="pk_microbatch"),
    )
    op.create_index("ix_microbatch_batch", "microbatch", ["batch_id"])
    op.create_index(
        "ix_microbatch_lease",
        "microbatch",
        ["lease_until_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'claimed'"),
        postgresql_where=sa.text("state = 'claimed'"),
    )
    op.create_index(
        "ix_microbatch_reserved",
        "microbatch",
        ["state"],
        unique=False,
        sqlite_where=sa.text("reserved_left > 0"),
        postgresql_where=sa.text("reserved_left > 0"),
    )
    op.create_index(
        "ix_microbatch_sent",
        "microbatch",
        ["sent_at_ms"],
        unique=False,
        sqlite_where=sa.text("state = 'sent'"),
        postgresql_where=sa.text("state = 'sent'"),
    )
    op.create_index("ix_microbatch_tier_state", "microbatch", ["tier", "state", "id"])
    op.create_index("ix_microbatch_window", "microbatch", ["window_id"])
    op.create_table(
        "rejected",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("line_no", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("remedy", sa.Text(), nullable=False),
        sa.Column("raw_sha256", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_rejected_batch_id"),
        sa.PrimaryKeyConstraint("batch_id", "line_no", name="pk_rejected"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("negative_prompt", sa.Text()),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer()),
        sa.Column("height", sa.Integer()),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("metadata", sa.Text()),
        sa.Column("not_before_ms", sa.BigInteger(), nullable=False),
        sa.Column("defer_reason", sa.Text()),
        sa.Column("cancel_requested", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("microbatch_id", sa.Text()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state IN ('queued', 'assigned', 'done')", name="ck_job_state"),
        sa.CheckConstraint("n >= 1", name="ck_job_n"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_job_batch_id"),
        sa.ForeignKeyConstraint(["microbatch_id"], ["microbatch.id"], name="fk_job_microbatch_id"),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
        sa.UniqueConstraint("batch_id", "custom_id", name="uq_job_custom_id"),
        sa.UniqueConstraint("batch_id", "seq", name="uq_job_seq"),
    )
    op.create_index(
        "ix_job_microbatch",
        "job",
        ["microbatch_id"],
        unique=False,
        sqlite_where=sa.text("microbatch_id IS NOT NULL"),
        postgresql_where=sa.text("microbatch_id IS NOT NULL"),
    )
    op.create_table(
        "assignment",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("window_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("prs", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("scores", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_assignment_job_id"),
        sa.ForeignKeyConstraint(["window_id"], ["decision_window.id"], name="fk_assignment_window_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_assignment"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "attempt",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("microbatch_id", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("started_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.Column("error_class", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_attempt_job_id"),
        sa.ForeignKeyConstraint(["microbatch_id"], ["microbatch.id"], name="fk_attempt_microbatch_id"),
        sa.PrimaryKeyConstraint("job_id", "microbatch_id", "fence", name="pk_attempt"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "outcome",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text()),
        sa.Column("microbatch_id", sa.Text()),
        sa.Column("fence", sa.Integer()),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=False),
        sa.Column("model_id", sa.Text()),
        sa.Column("model_revision", sa.Text()),
        sa.Column("settings", sa.Text()),
        sa.Column("error_class", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state = 'cancelled' OR fence IS NOT NULL", name="ck_outcome_fence"),
        sa.CheckConstraint("state IN ('succeeded', 'failed', 'cancelled')", name="ck_outcome_state"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_outcome_job_id"),
        sa.ForeignKeyConstraint(["microbatch_id"], ["microbatch.id"], name="fk_outcome_microbatch_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_outcome"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "picture",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("scores", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["outcome.job_id"], name="fk_picture_job_id"),
        sa.PrimaryKeyConstraint("job_id", "idx", name="pk_picture"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_job_queue",
        "job",
        [sa.text("priority DESC"), "batch_id", "seq", "n"],
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
