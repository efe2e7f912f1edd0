"""Shadow jobs: users' jobs repeated on the other tier, what PRS is measured with, the view `shadow_pair`.

`job_audit` stays the users' view: it leaves shadows out. Measured PRS is computed in Python, for a SQLite
need not have exp(). Frozen: a later change of `db.models` comes with a migration of its own.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

first = import_module("db.migrations.versions.0001_initial")  # frozen, so its view and triggers are too

# One row per user's job whose two pictures are there; the first picture of a job stands for it.
PAIRS = """
CREATE VIEW shadow_pair AS
SELECT
    j.batch_id AS batch_id,
    j.id AS job_id,
    s.id AS shadow_job_id,
    j.prompt AS prompt,
    p.seed AS seed,
    a.window_id AS window_id,
    w.committed_ms AS committed_ms,
    w.predictor_name AS predictor_name,
    w.predictor_version AS predictor_version,
    a.prs AS prs_predicted,
    a.propensity AS propensity,
    a.tier AS tier,
    o.model_id AS model_id,
    p.scores AS scores,
    b.tier AS shadow_tier,
    u.model_id AS shadow_model_id,
    q.scores AS shadow_scores
FROM job s
JOIN job j ON j.id = s.shadow_of
JOIN assignment a ON a.job_id = j.id
JOIN assignment b ON b.job_id = s.id
JOIN decision_window w ON w.id = a.window_id
JOIN outcome o ON o.job_id = j.id
JOIN outcome u ON u.job_id = s.id
JOIN picture p ON p.job_id = j.id AND p.idx = 0
JOIN picture q ON q.job_id = s.id AND q.idx = 0
WHERE s.shadow_of IS NOT NULL
"""


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    # both databases understand the column's constraint; alembic would make it a statement SQLite has not
    op.execute("ALTER TABLE job ADD COLUMN shadow_of TEXT CONSTRAINT fk_job_shadow_of REFERENCES job (id)")
    op.execute("CREATE UNIQUE INDEX ix_job_shadow_of ON job (shadow_of) WHERE shadow_of IS NOT NULL")
    op.add_column("assignment", sa.Column("propensity", sa.Float()))
    op.execute(
        """CREATE TABLE yardstick (
            predictor_name TEXT NOT NULL, predictor_version TEXT NOT NULL,
            weights TEXT NOT NULL, spans TEXT NOT NULL,
            CONSTRAINT pk_yardstick PRIMARY KEY (predictor_name, predictor_version)
        )"""
        + (" WITHOUT ROWID" if dialect == "sqlite" else "")
    )
    for verb in ("update", "delete"):
        op.execute(first._forbid(dialect, "yardstick", verb))
    if dialect == "postgresql":
        op.execute(first._forbid(dialect, "yardstick", "truncate"))
    op.execute("DROP VIEW job_audit")
    op.execute(first._view(dialect) + "WHERE j.shadow_of IS NULL")
    op.execute(PAIRS)


def downgrade() -> None:
    """Forget which job shadows which; the shadows themselves stay as jobs of batches of their own."""
    dialect = op.get_context().dialect.name
    op.execute("DROP VIEW shadow_pair")
    op.execute("DROP VIEW job_audit")
    op.execute("DROP TABLE yardstick")
    op.drop_column("assignment", "propensity")
    op.execute("DROP INDEX ix_job_shadow_of")
    op.execute("ALTER TABLE job DROP COLUMN shadow_of")
    op.execute(first._view(dialect))
