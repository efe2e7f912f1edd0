"""Jobs that ask for a tier, in the queue, in what waits and in the view `job_audit`; and pauses.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

eighth = import_module("db.migrations.versions.0008_operations")  # frozen, so its view is too


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.execute("ALTER TABLE job ADD COLUMN tier TEXT")
    op.drop_table("waiting")
    _make_waiting(tier=True)
    op.execute(
        """INSERT INTO waiting(batch_id, width, height, tier, jobs, pictures)
            SELECT batch_id, COALESCE(width, 0), COALESCE(height, 0), '', count(*), sum(n) FROM job
            WHERE state = 'queued' GROUP BY batch_id, COALESCE(width, 0), COALESCE(height, 0)"""
    )
    op.execute("DROP VIEW job_audit")
    op.execute(view(dialect))
    op.create_table(
        "pause",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('client', 'batch', 'tier')", name="ck_pause_kind"),
        sa.PrimaryKeyConstraint("kind", "name", name="pk_pause"),
        sqlite_with_rowid=False,
    )


def view(dialect: str) -> str:
    """Return the statement that makes `job_audit`: the tier that a job asked for stands last."""
    made: str = eighth.view(dialect)
    return made.replace(" AS image_deleted_at\n", " AS image_deleted_at,\n    j.tier AS requested_tier\n")


def _make_waiting(*, tier: bool) -> None:
    key = ["batch_id", "width", "height", *(["tier"] if tier else [])]
    op.create_table(
        "waiting",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        *([sa.Column("tier", sa.Text(), nullable=False)] if tier else []),
        sa.Column("jobs", sa.BigInteger(), nullable=False),
        sa.Column("pictures", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("jobs >= 0 AND pictures >= jobs", name="ck_waiting_amounts"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_waiting_batch_id"),
        sa.PrimaryKeyConstraint(*key, name="pk_waiting"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Forget who asked for which tier, and all pauses: jobs that still wait go where windows send them."""
    dialect = op.get_context().dialect.name
    op.drop_table("pause")
    op.execute("DROP VIEW job_audit")
    op.execute(eighth.view(dialect))
    op.execute("ALTER TABLE job DROP COLUMN tier")
    op.drop_table("waiting")
    _make_waiting(tier=False)
    op.execute(
        """INSERT INTO waiting(batch_id, width, height, jobs, pictures)
            SELECT batch_id, COALESCE(width, 0), COALESCE(height, 0), count(*), sum(n) FROM job
            WHERE state = 'queued' GROUP BY batch_id, COALESCE(width, 0), COALESCE(height, 0)"""
    )
