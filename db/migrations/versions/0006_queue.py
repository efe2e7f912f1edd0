"""Clients share the queue: whose a job is, until when it is wanted, how much waits, who was served how far.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE batch RENAME COLUMN tenant TO client")
    op.execute("ALTER TABLE batch ADD COLUMN announced INTEGER NOT NULL DEFAULT 0")
    op.execute("CREATE INDEX ix_batch_ingesting ON batch (client) WHERE state = 'ingesting'")
    op.execute("ALTER TABLE job ADD COLUMN client TEXT NOT NULL DEFAULT 'default'")
    op.execute("ALTER TABLE job ADD COLUMN deadline_ms BIGINT")
    op.execute("ALTER TABLE job ADD COLUMN jump_ms BIGINT")
    op.execute("ALTER TABLE decision_window ADD COLUMN reached BIGINT NOT NULL DEFAULT 0")
    op.execute("UPDATE job SET client = (SELECT b.client FROM batch b WHERE b.id = job.batch_id)")
    op.execute("DROP INDEX ix_job_queue")
    op.execute(
        "CREATE INDEX ix_job_queue ON job (client, priority DESC, batch_id, seq) WHERE state = 'queued'"
    )
    op.execute(
        """CREATE INDEX ix_job_jump ON job (client, jump_ms, priority DESC, batch_id, seq)
            WHERE state = 'queued' AND jump_ms IS NOT NULL"""
    )
    op.execute(
        """CREATE INDEX ix_job_deferred ON job (not_before_ms)
            WHERE state = 'queued' AND not_before_ms > 0"""
    )
    op.execute("CREATE INDEX ix_decision_window_reached ON decision_window (reached)")
    op.create_table(
        "client",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("virtual", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("weight >= 1", name="ck_client_weight"),
        sa.PrimaryKeyConstraint("name", name="pk_client"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "waiting",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("jobs >= 0 AND pictures >= jobs", name="ck_waiting_amounts"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_waiting_batch_id"),
        sa.PrimaryKeyConstraint("batch_id", "width", "height", name="pk_waiting"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "arrivals",
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("slot_ms", sa.BigInteger(), nullable=False),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("jobs >= 0 AND pictures >= jobs", name="ck_arrivals_amounts"),
        sa.PrimaryKeyConstraint("client", "slot_ms", name="pk_arrivals"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_arrivals_slot", "arrivals", ["slot_ms"])
    op.execute("INSERT INTO client(name, weight, virtual) SELECT DISTINCT client, 1, 0 FROM batch")
    op.execute(
        """INSERT INTO waiting(batch_id, width, height, jobs, pictures)
            SELECT batch_id, COALESCE(width, 0), COALESCE(height, 0), count(*), sum(n) FROM job
            WHERE state = 'queued' GROUP BY batch_id, COALESCE(width, 0), COALESCE(height, 0)"""
    )


def downgrade() -> None:
    """Forget shares and deadlines; jobs that still wait go by priority and age, as before."""
    op.drop_table("arrivals")
    op.drop_table("waiting")
    op.drop_table("client")
    op.execute("DROP INDEX ix_decision_window_reached")
    op.execute("DROP INDEX ix_job_deferred")
    op.execute("DROP INDEX ix_job_jump")
    op.execute("DROP INDEX ix_job_queue")
    op.execute("CREATE INDEX ix_job_queue ON job (priority DESC, batch_id, seq, n) WHERE state = 'queued'")
    op.execute("ALTER TABLE decision_window DROP COLUMN reached")
    for column in ("jump_ms", "deadline_ms", "client"):
        op.execute(f"ALTER TABLE job DROP COLUMN {column}")
    op.execute("DROP INDEX ix_batch_ingesting")
    op.execute("ALTER TABLE batch DROP COLUMN announced")
    op.execute("ALTER TABLE batch RENAME COLUMN client TO tenant")
