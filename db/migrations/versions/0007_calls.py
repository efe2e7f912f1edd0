"""Paid calls, from the permission before each to what it has cost, and who let a tier buy again.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

first = import_module("db.migrations.versions.0001_initial")  # frozen, so its triggers are too

# What was permitted never changes, and a bill that is known stays as it is; a picture may still come.
FIXED = " OR ".join(
    f"NEW.{name} <> OLD.{name}"
    for name in ("id", "microbatch_id", "job_id", "idx", "provider", "idem_key", "cost_max", "created_ms")
)
BILLED = (
    "(OLD.state = 'charged' AND (NEW.state <> 'charged' OR NEW.cost_actual <> OLD.cost_actual "
    "OR NEW.overrun <> OLD.overrun))"
)


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.create_table(
        "call",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("microbatch_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("idem_key", sa.Text(), nullable=False),
        sa.Column("repeatable", sa.Integer(), nullable=False),
        sa.Column("remote_id", sa.Text()),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cost_max", sa.BigInteger(), nullable=False),
        sa.Column("drawn", sa.BigInteger(), nullable=False),
        sa.Column("cost_actual", sa.BigInteger()),
        sa.Column("overrun", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("image_sha256", sa.Text()),
        sa.Column("error", sa.Text()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("settled_ms", sa.BigInteger()),
        sa.CheckConstraint("state IN ('intent', 'charged', 'unknown', 'void')", name="ck_call_state"),
        sa.CheckConstraint("(state = 'charged') = (cost_actual IS NOT NULL)", name="ck_call_known"),
        sa.CheckConstraint("cost_max >= 0 AND drawn >= 0 AND drawn <= cost_max", name="ck_call_permitted"),
        sa.CheckConstraint(
            "cost_actual >= 0 AND overrun >= 0 AND overrun <= cost_actual", name="ck_call_billed"
        ),
        sa.ForeignKeyConstraint(["microbatch_id"], ["microbatch.id"], name="fk_call_microbatch_id"),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name="fk_call_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_call"),
        sa.UniqueConstraint("idem_key", name="uq_call_idem_key"),
    )
    op.execute("CREATE INDEX ix_call_job ON call (job_id, idx)")
    op.execute("CREATE INDEX ix_call_microbatch ON call (microbatch_id)")
    op.execute("CREATE INDEX ix_call_remote ON call (provider, remote_id) WHERE remote_id IS NOT NULL")
    op.execute("CREATE INDEX ix_call_open ON call (state) WHERE state IN ('intent', 'unknown')")
    op.execute("CREATE INDEX ix_call_overrun ON call (provider, settled_ms) WHERE overrun > 0")
    op.create_table(
        "resumption",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_resumption"),
    )
    op.execute("CREATE INDEX ix_resumption_provider ON resumption (provider, at_ms)")
    op.execute(first._forbid(dialect, "call", "update", when=f"{FIXED} OR {BILLED}"))
    for table, verbs in (("call", ("delete",)), ("resumption", ("update", "delete"))):
        for verb in (*verbs, *(("truncate",) if dialect == "postgresql" else ())):
            op.execute(first._forbid(dialect, table, verb))


def downgrade() -> None:
    """Forget the calls: what they cost stays in the ledger and in the outcomes of their jobs."""
    op.drop_table("resumption")
    op.drop_table("call")
