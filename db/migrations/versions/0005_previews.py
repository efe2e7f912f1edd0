"""Previews that are kept, line by line, and the batches that were submitted from one.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

first = import_module("db.migrations.versions.0001_initial")  # frozen, so its triggers are too


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.create_table(
        "preview",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("file_sha256", sa.Text(), nullable=False),
        sa.Column("fmt", sa.Text(), nullable=False),
        sa.Column("predictor_name", sa.Text(), nullable=False),
        sa.Column("predictor_version", sa.Text(), nullable=False),
        sa.Column("budget_micro_usd", sa.BigInteger()),
        sa.Column("jobs", sa.Integer(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("micro_usd >= 0", name="ck_preview_amount"),
        sa.PrimaryKeyConstraint("id", name="pk_preview"),
    )
    op.create_table(
        "preview_line",
        sa.Column("preview_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("prs", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("scores", sa.Text(), nullable=False),
        sa.CheckConstraint("micro_usd >= 0", name="ck_preview_line_amount"),
        sa.ForeignKeyConstraint(["preview_id"], ["preview.id"], name="fk_preview_line_preview_id"),
        sa.PrimaryKeyConstraint("preview_id", "seq", name="pk_preview_line"),
        sqlite_with_rowid=False,
    )
    for table in ("preview", "preview_line"):
        for verb in ("update", "delete", *(("truncate",) if dialect == "postgresql" else ())):
            op.execute(first._forbid(dialect, table, verb))
    # both databases understand the column's constraint; alembic would make it a statement SQLite has not
    op.execute(
        "ALTER TABLE batch ADD COLUMN preview_id TEXT CONSTRAINT fk_batch_preview_id REFERENCES preview (id)"
    )


def downgrade() -> None:
    """Forget what previews promised; jobs that still wait are decided by windows, within their budgets."""
    op.execute("ALTER TABLE batch DROP COLUMN preview_id")
    op.drop_table("preview_line")
    op.drop_table("preview")
