"""Webhooks with their outbox and log, what sweeps have found, and outcomes in the order of time.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

PENDING = "state = 'pending'"


def upgrade() -> None:
    op.create_index("ix_outcome_at", "outcome", ["at_ms"])
    op.create_table(
        "sweep_finding",
        sa.Column("finding", sa.Text(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("finding", name="pk_sweep_finding"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "webhook",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("client", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text()),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("events", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_webhook"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_webhook_batch_id_batch"),
    )
    op.create_index("ix_webhook_client", "webhook", ["client", "id"])
    op.create_table(
        "webhook_secret",
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("webhook_id", name="pk_webhook_secret"),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhook.id"], name="fk_webhook_secret_webhook_id_webhook"),
    )
    op.create_table(
        "webhook_watch",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("look_ms", sa.BigInteger()),
        sa.Column("event", sa.Text()),
        sa.PrimaryKeyConstraint("batch_id", name="pk_webhook_watch"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_webhook_watch_batch_id_batch"),
    )
    op.create_index(
        "ix_webhook_watch_look",
        "webhook_watch",
        ["look_ms"],
        sqlite_where=sa.text("look_ms IS NOT NULL"),
        postgresql_where=sa.text("look_ms IS NOT NULL"),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("webhook_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_ms", sa.BigInteger(), nullable=False),
        sa.Column("claimed_until_ms", sa.BigInteger()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_delivery"),
        sa.UniqueConstraint("webhook_id", "subject", name="uq_webhook_delivery_subject"),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhook.id"], name="fk_webhook_delivery_webhook_id_webhook"
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'delivered', 'given_up', 'dropped')", name="ck_webhook_delivery_state"
        ),
    )
    op.create_index(
        "ix_webhook_delivery_due",
        "webhook_delivery",
        ["next_ms"],
        sqlite_where=sa.text(PENDING),
        postgresql_where=sa.text(PENDING),
    )
    op.create_index(
        "ix_webhook_delivery_given_up",
        "webhook_delivery",
        ["ended_ms"],
        sqlite_where=sa.text("state = 'given_up'"),
        postgresql_where=sa.text("state = 'given_up'"),
    )
    op.create_index(
        "ix_webhook_delivery_claimed",
        "webhook_delivery",
        ["webhook_id"],
        sqlite_where=sa.text("claimed_until_ms IS NOT NULL"),
        postgresql_where=sa.text("claimed_until_ms IS NOT NULL"),
    )
    op.create_index("ix_webhook_delivery_webhook", "webhook_delivery", ["webhook_id", "id"])
    op.create_table(
        "webhook_try",
        sa.Column("delivery_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.Column("milliseconds", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "number", name="pk_webhook_try"),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["webhook_delivery.id"], name="fk_webhook_try_delivery_id_webhook_delivery"
        ),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Forget webhooks, with what was not delivered yet."""
    for table in (
        *("webhook_try", "webhook_delivery", "webhook_watch", "webhook_secret", "webhook", "sweep_finding"),
    ):
        op.drop_table(table)
    op.drop_index("ix_outcome_at", "outcome")
