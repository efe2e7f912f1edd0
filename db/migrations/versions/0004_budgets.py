"""Budgets of clients and deployments per span of time, and a ledger whose rows are transfers.

A microbatch no longer names a second budget: what it draws on is what its reservation was posted to. Sums
stay as they are, up and down. Frozen: a later change of `db.models` comes with a migration of its own.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

from db.dialects import NOW

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

first = import_module("db.migrations.versions.0001_initial")  # frozen, so its triggers are too
MOVES = (
    "(kind = 'grant' AND from_side = 'owner' AND to_side = 'available')"
    " OR (kind = 'grant' AND from_side = 'available' AND to_side = 'owner')"
    " OR (kind = 'reserve' AND from_side = 'available' AND to_side = 'reserved')"
    " OR (kind = 'settle' AND from_side = 'reserved' AND to_side IN ('spent', 'unknown'))"
    " OR (kind = 'release' AND from_side = 'reserved' AND to_side = 'available')"
    " OR (kind = 'adjust' AND from_side = 'unknown' AND to_side IN ('spent', 'available'))"
    " OR (kind = 'carry' AND from_side = 'available' AND to_side = 'carried')"
    " OR (kind = 'carry' AND from_side IN ('carried', 'owner') AND to_side = 'available')"
    " OR (kind = 'overrun' AND from_side = 'owner' AND to_side = 'overrun')"
)
BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.create_table(
        "budget_policy",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("span", sa.Text(), nullable=False),
        sa.Column("limit_micro_usd", sa.BigInteger()),
        sa.Column("carry", sa.Text(), nullable=False),
        sa.Column("cap_micro_usd", sa.BigInteger()),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("scope IN ('batch', 'client', 'deployment')", name="ck_budget_policy_scope"),
        sa.CheckConstraint("carry IN ('none', 'all', 'capped')", name="ck_budget_policy_carry"),
        sa.CheckConstraint("(carry = 'capped') = (cap_micro_usd IS NOT NULL)", name="ck_budget_policy_cap"),
        sa.CheckConstraint("limit_micro_usd >= 0 AND cap_micro_usd >= 0", name="ck_budget_policy_amounts"),
        sa.PrimaryKeyConstraint("id", name="pk_budget_policy"),
    )
    op.create_index("ix_budget_policy_name", "budget_policy", ["name", "scope", "span", "id"])
    _keep(dialect, "budget_policy")
    # both databases understand this; alembic's batch mode would rebuild a table that others refer to
    op.execute("ALTER TABLE budget ADD COLUMN carried BIGINT DEFAULT 0 NOT NULL")
    op.execute(
        "ALTER TABLE budget ADD COLUMN overrun BIGINT DEFAULT 0 NOT NULL "
        "CONSTRAINT ck_budget_beside_limit CHECK (carried >= 0 AND overrun >= 0)"
    )
    _set_aside("ledger")
    _create_ledger()
    op.execute(
        """INSERT INTO ledger(id, event_id, budget_id, period, kind, from_side, to_side, micro_usd, at_ms)
            SELECT id, event_id, budget_id, period, kind,
                   CASE kind WHEN 'reserve' THEN 'available' ELSE 'reserved' END,
                   CASE kind WHEN 'reserve' THEN 'reserved' WHEN 'settle' THEN 'spent' ELSE 'available' END,
                   abs(d_reserved), at_ms
            FROM ledger_before"""
    )
    op.execute("DROP TABLE ledger_before")
    _count_on(dialect)
    op.execute(  # what the budgets have is what their owners granted
        f"""INSERT INTO ledger(event_id, budget_id, period, kind, from_side, to_side, micro_usd, at_ms)
            SELECT 'grant:' || id || '/' || period, id, period, 'grant', 'owner', 'available', lim,
                   {NOW[dialect]}
            FROM budget WHERE lim > 0 ORDER BY id, period"""  # noqa: S608 - a constant
    )
    _keep(dialect, "ledger")
    if dialect == "sqlite":
        _rebuild_microbatch(with_period=False)
    else:
        op.drop_constraint("fk_microbatch_period_budget_id", "microbatch")
        op.drop_column("microbatch", "period_budget_id")
        op.drop_column("microbatch", "period")


def downgrade() -> None:
    """Go back to one budget beside the batch's: a microbatch keeps the first of its other accounts.

    Accounts of calendar spans stay as rows of `budget` with their lines, but nobody draws on them any more.
    What was unknown, adjusted or beyond a limit becomes spent; grants and carry-over have no lines.
    """
    dialect = op.get_context().dialect.name
    if dialect == "sqlite":
        _rebuild_microbatch(with_period=True)
    else:
        op.add_column("microbatch", sa.Column("period_budget_id", sa.Text()))
        op.add_column("microbatch", sa.Column("period", sa.Text()))
        op.create_foreign_key(
            "fk_microbatch_period_budget_id",
            "microbatch",
            "budget",
            ["period_budget_id", "period"],
            ["id", "period"],
        )
    chosen = """SELECT l.{} FROM ledger l
        WHERE l.event_id = 'reserve:' || COALESCE(microbatch.parent_id, microbatch.id)
        AND l.budget_id <> 'batch:' || microbatch.batch_id ORDER BY l.budget_id DESC, l.period LIMIT 1"""
    op.execute(
        f"UPDATE microbatch SET period_budget_id = ({chosen.format('budget_id')}), "  # noqa: S608
        f"period = ({chosen.format('period')})"
    )
    _set_aside("ledger")
    _create_ledger_before()
    op.execute(
        """INSERT INTO ledger(id, event_id, budget_id, period, kind, d_reserved, d_spent, at_ms)
            SELECT id, event_id, budget_id, period,
                   CASE kind WHEN 'adjust' THEN 'settle' ELSE kind END,
                   CASE WHEN to_side = 'reserved' THEN micro_usd WHEN from_side = 'reserved' THEN -micro_usd
                        ELSE 0 END,
                   CASE WHEN to_side IN ('spent', 'unknown') AND from_side <> 'unknown' THEN micro_usd
                        WHEN from_side = 'unknown' AND to_side = 'available' THEN -micro_usd ELSE 0 END,
                   at_ms
            FROM ledger_before WHERE kind NOT IN ('grant', 'carry', 'overrun')"""
    )
    op.execute("DROP TABLE ledger_before")
    _count_on(dialect)
    _keep(dialect, "ledger")
    if dialect == "postgresql":
        op.drop_constraint("ck_budget_beside_limit", "budget")
    op.execute("ALTER TABLE budget DROP COLUMN overrun")
    op.execute("ALTER TABLE budget DROP COLUMN carried")
    op.drop_table("budget_policy")


def _keep(dialect: str, table: str) -> None:
    """Refuse changes and deletions from now on."""
    for verb in ("update", "delete", *(("truncate",) if dialect == "postgresql" else ())):
        op.execute(first._forbid(dialect, table, verb))


def _set_aside(table: str) -> None:
    """Keep a table's rows under another name, without the keys and constraints whose names are needed."""
    op.execute(f"CREATE TABLE {table}_before AS SELECT * FROM {table}")  # noqa: S608 - a constant
    op.drop_table(table)


def _count_on(dialect: str) -> None:
    """Let the next ledger row have the next number; SQLite does so by itself."""
    if dialect == "postgresql":
        op.execute(
            """SELECT setval(pg_get_serial_sequence('ledger', 'id'),
                             COALESCE((SELECT max(id) FROM ledger), 0) + 1, false)"""
        )


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("from_side", sa.Text(), nullable=False),
        sa.Column("to_side", sa.Text(), nullable=False),
        sa.Column("micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("policy_id", BIG_KEY),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("micro_usd >= 0", name="ck_ledger_amount"),
        sa.CheckConstraint(MOVES, name="ck_ledger_move"),
        sa.ForeignKeyConstraint(
            ["budget_id", "period"], ["budget.id", "budget.period"], name="fk_ledger_budget_id"
        ),
        sa.ForeignKeyConstraint(["policy_id"], ["budget_policy.id"], name="fk_ledger_policy_id"),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
        sa.UniqueConstraint("event_id", "budget_id", "period", name="uq_ledger_event"),
    )


def _create_ledger_before() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", BIG_KEY, nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("budget_id", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("d_reserved", sa.BigInteger(), nullable=False),
        sa.Column("d_spent", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("kind IN ('reserve', 'settle', 'release')", name="ck_ledger_kind"),
        sa.ForeignKeyConstraint(
            ["budget_id", "period"], ["budget.id", "budget.period"], name="fk_ledger_budget_id"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ledger"),
        sa.UniqueConstraint("event_id", "budget_id", name="uq_ledger_event"),
    )


def _rebuild_microbatch(*, with_period: bool) -> None:
    """Make SQLite's table anew: it cannot drop a column that a foreign key names. No key is checked now."""
    kept = (
        "id, batch_id, window_id, tier, width, height, state, fence, lease_until_ms, worker_id, sent_at_ms, "
        "deliveries, deaths, reserved_left, parent_id, created_ms, closed_ms"
    )
    _set_aside("microbatch")
    extra = [sa.Column("period_budget_id", sa.Text()), sa.Column("period", sa.Text())] if with_period else []
    key = (
        [
            sa.ForeignKeyConstraint(
                ["period_budget_id", "period"],
                ["budget.id", "budget.period"],
                name="fk_microbatch_period_budget_id",
            )
        ]
        if with_period
        else []
    )
    op.create_table(
        "microbatch",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("window_id", sa.Text(), nullable=False),
        sa.Column("tier", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger()),
        sa.Column("worker_id", sa.Text()),
        sa.Column("sent_at_ms", sa.BigInteger()),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        *extra,
        sa.Column("reserved_left", sa.BigInteger(), nullable=False),
        sa.Column("parent_id", sa.Text()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("closed_ms", sa.BigInteger()),
        sa.CheckConstraint("(state = 'claimed') = (lease_until_ms IS NOT NULL)", name="ck_microbatch_lease"),
        sa.CheckConstraint(
            "state IN ('ready', 'sent', 'claimed', 'done', 'split', 'dead', 'cancelled')",
            name="ck_microbatch_state",
        ),
        sa.CheckConstraint("reserved_left >= 0", name="ck_microbatch_reserved_left"),
        sa.ForeignKeyConstraint(["batch_id"], ["batch.id"], name="fk_microbatch_batch_id"),
        sa.ForeignKeyConstraint(["parent_id"], ["microbatch.id"], name="fk_microbatch_parent_id"),
        sa.ForeignKeyConstraint(["window_id"], ["decision_window.id"], name="fk_microbatch_window_id"),
        *key,
        sa.PrimaryKeyConstraint("id", name="pk_microbatch"),
    )
    op.execute(f"INSERT INTO microbatch({kept}) SELECT {kept} FROM microbatch_before")  # noqa: S608
    op.execute("DROP TABLE microbatch_before")
    op.create_index("ix_microbatch_batch", "microbatch", ["batch_id"])
    op.create_index("ix_microbatch_window", "microbatch", ["window_id"])
    op.create_index("ix_microbatch_tier_state", "microbatch", ["tier", "state", "id"])
    for name, column, where in (
        ("lease", "lease_until_ms", "state = 'claimed'"),
        ("sent", "sent_at_ms", "state = 'sent'"),
        ("reserved", "state", "reserved_left > 0"),
    ):
        op.create_index(f"ix_microbatch_{name}", "microbatch", [column], sqlite_where=sa.text(where))
