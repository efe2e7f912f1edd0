"""The registry of predictors: every fitted version, and who promoted which when.

Frozen: a later change of `db.models` comes with a migration of its own, never with an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FOREVER = ("predictor", "promotion")  # neither changed nor deleted


def _forbid(dialect: str, table: str, verb: str) -> str:
    """Return the trigger that refuses `verb` on `table`; the function is 0001's."""
    if dialect == "sqlite":
        return (
            f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} FOR EACH ROW "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    rows = "FOR EACH STATEMENT" if verb == "truncate" else "FOR EACH ROW"
    return (
        f"CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table} {rows} EXECUTE FUNCTION refuse_change()"
    )


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.create_table(
        "predictor",
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("data_sha256", sa.Text(), nullable=False),
        sa.Column("prompts", sa.Integer(), nullable=False),
        sa.Column("figures", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("weights", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_predictor"),
    )
    op.create_index("ix_predictor_name", "predictor", ["name", "created_ms"])
    op.create_table(
        "promotion",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["version"], ["predictor.version"], name="fk_promotion_version"),
        sa.PrimaryKeyConstraint("id", name="pk_promotion"),
    )
    verbs = ("update", "delete", "truncate") if dialect == "postgresql" else ("update", "delete")
    for table in FOREVER:
        for verb in verbs:
            op.execute(_forbid(dialect, table, verb))


def downgrade() -> None:
    op.drop_table("promotion")
    op.drop_table("predictor")
