"""Keys of the HTTP interface.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_key",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("shown", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.Column("revoked_ms", sa.BigInteger()),
        sa.Column("used_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_api_key"),
        sa.CheckConstraint("role IN ('submitter', 'auditor', 'admin')", name="ck_api_key_role"),
    )
    op.create_index("ix_api_key_sha256", "api_key", ["sha256"], unique=True)


def downgrade() -> None:
    """Forget all keys: who used them asks for new ones."""
    op.drop_table("api_key")
