"""Files and batches of the HTTP interface.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

STATES = (
    "'validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled'"
)


def upgrade() -> None:
    op.execute("ALTER TABLE rejected ADD COLUMN custom_id TEXT")
    op.execute("ALTER TABLE job ADD COLUMN response_format TEXT")
    op.create_table(
        "file",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.Column("deleted_ms", sa.BigInteger()),
        sa.Column("removed_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_file"),
        sa.CheckConstraint("purpose IN ('batch', 'batch_output')", name="ck_file_purpose"),
        sa.CheckConstraint("(purpose = 'batch') = (sha256 IS NOT NULL)", name="ck_file_stored"),
        sa.CheckConstraint("bytes >= 0", name="ck_file_bytes"),
    )
    op.create_index("ix_file_client", "file", ["client", "id"])
    op.execute("CREATE INDEX ix_file_sha256 ON file (sha256) WHERE sha256 IS NOT NULL")
    op.execute("CREATE INDEX ix_file_removable ON file (id) WHERE sha256 IS NOT NULL AND removed_ms IS NULL")
    op.create_table(
        "api_batch",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("idem_key", sa.Text()),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text()),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("budget_micro_usd", sa.BigInteger()),
        sa.Column("deadline", sa.Text()),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("preview_id", sa.Text()),
        sa.Column("base_url", sa.Text(), nullable=False),
        sa.Column("output_seconds", sa.BigInteger()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ending", sa.Text()),
        sa.Column("batch_id", sa.Text()),
        sa.Column("errors", sa.Text()),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("completed", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("output_file_id", sa.Text()),
        sa.Column("error_file_id", sa.Text()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("in_progress_ms", sa.BigInteger()),
        sa.Column("finalizing_ms", sa.BigInteger()),
        sa.Column("completed_ms", sa.BigInteger()),
        sa.Column("failed_ms", sa.BigInteger()),
        sa.Column("expired_ms", sa.BigInteger()),
        sa.Column("cancelling_ms", sa.BigInteger()),
        sa.Column("cancelled_ms", sa.BigInteger()),
        sa.Column("look_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_batch"),
        sa.UniqueConstraint("client", "idem_key", name="uq_api_batch_idem_key"),
        sa.ForeignKeyConstraint(["input_file_id"], ["file.id"], name="fk_api_batch_input_file_id"),
        sa.ForeignKeyConstraint(["output_file_id"], ["file.id"], name="fk_api_batch_output_file_id"),
        sa.ForeignKeyConstraint(["error_file_id"], ["file.id"], name="fk_api_batch_error_file_id"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_api_batch_batch_id"),
        sa.CheckConstraint(f"state IN ({STATES})", name="ck_api_batch_state"),
        sa.CheckConstraint("ending IN ('completed', 'expired', 'cancelled')", name="ck_api_batch_ending"),
    )
    op.create_index("ix_api_batch_client", "api_batch", ["client", "id"])
    op.create_index("ix_api_batch_batch", "api_batch", ["batch_id"])
    op.create_index("ix_api_batch_output", "api_batch", ["output_file_id"])
    op.create_index("ix_api_batch_error", "api_batch", ["error_file_id"])
    op.create_index("ix_api_batch_sha256", "api_batch", ["sha256"])
    op.execute(
        """CREATE INDEX ix_api_batch_open ON api_batch (look_ms)
            WHERE state IN ('validating', 'in_progress', 'finalizing', 'cancelling')"""
    )


def downgrade() -> None:
    """Forget uploads and what was asked over HTTP; the batches that were made of it stay."""
    op.drop_table("api_batch")
    op.drop_table("file")
    op.execute("ALTER TABLE job DROP COLUMN response_format")
    op.execute("ALTER TABLE rejected DROP COLUMN custom_id")
