"""What operating needs: deleted pictures, retried jobs, workers at fault, previews that nobody wants.

Frozen: a later change of `db.models` comes with a migration of its own.
"""

from importlib import import_module

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

first = import_module("db.migrations.versions.0001_initial")  # frozen, so its view and triggers are too

# A deletion is written before its file goes; that the file is gone is noted once.
DELETION_IS_FIXED = (
    "OLD.done_ms IS NOT NULL OR NEW.job_id <> OLD.job_id OR NEW.idx <> OLD.idx OR NEW.sha256 <> OLD.sha256 "
    "OR NEW.who <> OLD.who OR NEW.at_ms <> OLD.at_ms"
)
# A preview that no batch names is nobody's promise. A trigger of PostgreSQL may not ask another table itself.
PROMISED = {"preview": "OLD.id", "preview_line": "OLD.preview_id"}
FUNCTION = """
CREATE FUNCTION refuse_promised() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM batch WHERE preview_id =
               CASE TG_TABLE_NAME WHEN 'preview' THEN to_jsonb(OLD) ->> 'id'
                                  ELSE to_jsonb(OLD) ->> 'preview_id' END) THEN
        RAISE EXCEPTION '% is append-only', TG_TABLE_NAME;
    END IF;
    RETURN OLD;
END $$
"""


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    op.execute("ALTER TABLE worker ADD COLUMN fault TEXT")
    op.execute("ALTER TABLE worker ADD COLUMN fault_ms BIGINT")
    # both databases understand the column's constraint; alembic would make it a statement SQLite has not
    op.execute(
        "ALTER TABLE batch ADD COLUMN retry_of TEXT CONSTRAINT fk_batch_retry_of REFERENCES batch (id)"
    )
    op.execute("ALTER TABLE job ADD COLUMN retry_of TEXT CONSTRAINT fk_job_retry_of REFERENCES job (id)")
    op.execute("CREATE UNIQUE INDEX ix_job_retry_of ON job (retry_of) WHERE retry_of IS NOT NULL")
    op.execute("CREATE INDEX ix_batch_retry_of ON batch (retry_of) WHERE retry_of IS NOT NULL")
    op.execute("CREATE INDEX ix_batch_preview ON batch (preview_id) WHERE preview_id IS NOT NULL")
    op.execute("CREATE INDEX ix_picture_sha256 ON picture (sha256)")
    op.create_table(
        "picture_deletion",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("done_ms", sa.BigInteger()),
        sa.ForeignKeyConstraint(
            ["job_id", "idx"], ["picture.job_id", "picture.idx"], name="fk_picture_deletion_job_id"
        ),
        sa.PrimaryKeyConstraint("job_id", "idx", name="pk_picture_deletion"),
        sqlite_with_rowid=False,
    )
    op.execute("CREATE INDEX ix_picture_deletion_open ON picture_deletion (sha256) WHERE done_ms IS NULL")
    op.execute(first._forbid(dialect, "picture_deletion", "update", when=DELETION_IS_FIXED))
    op.execute(first._forbid(dialect, "picture_deletion", "delete"))
    if dialect == "postgresql":
        op.execute(first._forbid(dialect, "picture_deletion", "truncate"))
    op.execute("DROP VIEW job_audit")
    op.execute(view(dialect))
    _allow_unpromised(dialect)


def view(dialect: str) -> str:
    """Return the statement that makes `job_audit`: a deleted picture has a time and no address any more."""
    made: str = first._view(dialect)
    deleted = (
        "strftime('%Y-%m-%dT%H:%M:%fZ', d.at_ms / 1000.0, 'unixepoch')"
        if dialect == "sqlite"
        else """to_char(to_timestamp(d.at_ms / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')"""
    )
    made = made.replace("CASE WHEN p.sha256 IS NULL THEN", "CASE WHEN p.sha256 IS NULL OR d.at_ms > 0 THEN")
    made = made.replace(
        "LEFT JOIN picture p ON p.job_id = j.id",
        "LEFT JOIN picture p ON p.job_id = j.id\n"
        "LEFT JOIN picture_deletion d ON d.job_id = p.job_id AND d.idx = p.idx",
    )
    made = made.replace("\nFROM job j\n", f",\n    {deleted} AS image_deleted_at\nFROM job j\n")
    return made + "WHERE j.shadow_of IS NULL"


def _allow_unpromised(dialect: str) -> None:
    if dialect == "postgresql":
        op.execute(FUNCTION)
    for table, preview_id in PROMISED.items():
        if dialect == "sqlite":
            op.execute(f"DROP TRIGGER {table}_no_delete")
            op.execute(
                first._forbid(
                    dialect,
                    table,
                    "delete",
                    when=f"EXISTS (SELECT 1 FROM batch WHERE preview_id = {preview_id})",  # noqa: S608
                )
            )
        else:
            op.execute(f"DROP TRIGGER {table}_no_delete ON {table}")
            op.execute(
                f"CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} FOR EACH ROW "
                "EXECUTE FUNCTION refuse_promised()"
            )


def downgrade() -> None:
    """Forget who deleted which picture and which job repeats which; the jobs themselves stay."""
    dialect = op.get_context().dialect.name
    for table in PROMISED:
        op.execute(f"DROP TRIGGER {table}_no_delete" + ("" if dialect == "sqlite" else f" ON {table}"))
        op.execute(first._forbid(dialect, table, "delete"))
    if dialect == "postgresql":
        op.execute("DROP FUNCTION refuse_promised()")
    op.execute("DROP VIEW job_audit")
    op.execute(first._view(dialect) + "WHERE j.shadow_of IS NULL")
    op.drop_table("picture_deletion")
    for index in ("ix_picture_sha256", "ix_batch_preview", "ix_batch_retry_of", "ix_job_retry_of"):
        op.execute(f"DROP INDEX {index}")
    op.execute("ALTER TABLE job DROP COLUMN retry_of")
    op.execute("ALTER TABLE batch DROP COLUMN retry_of")
    op.execute("ALTER TABLE worker DROP COLUMN fault_ms")
    op.execute("ALTER TABLE worker DROP COLUMN fault")
