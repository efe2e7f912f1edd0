"""Secrets that sign addresses, the code of a bad line, and ends of batches that their orders name.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE rejected ADD COLUMN code TEXT")
    op.execute("ALTER TABLE webhook_watch DROP COLUMN event")
    op.create_table(
        "link_secret",
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("purpose", name="pk_link_secret"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Forget the secrets: signed addresses that are out open nothing any more."""
    op.drop_table("link_secret")
    op.execute("ALTER TABLE webhook_watch ADD COLUMN event TEXT")
    op.execute("ALTER TABLE rejected DROP COLUMN code")
