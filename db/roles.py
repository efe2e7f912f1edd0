"""Who may do what on PostgreSQL: a program that writes rows, a person who reads them; neither makes tables.

It grants to roles that exist already and makes none: it never has a password in its hands. What triggers keep
as it was written is not even granted. It knows no job and no money.
"""

import re
from enum import StrEnum

from sqlalchemy import Connection, Engine

from db.dialects import run
from db.session import reading, transaction
from db.views import SECRETS
from routet2i.contracts import NAME
from routet2i.errors import UsageError


class Duty(StrEnum):
    """What a role is for."""

    APP = "app"  # schedulers, workers, the HTTP interface
    AUDITOR = "auditor"  # reads everything but secrets, writes nothing


LOCKED = (
    "budget_policy",
    "promotion",
    "resumption",
)  # tables that the program locks as a whole: PostgreSQL asks for UPDATE then
TABLES = """SELECT c.relname AS name, c.relkind = 'v' AS is_view FROM pg_class c
    WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND c.relkind IN ('r', 'p', 'v')
    ORDER BY c.relname"""
SEALED = """SELECT c.relname AS name, CASE WHEN t.tgtype & 8 > 0 THEN 'DELETE' ELSE 'UPDATE' END AS verb
    FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc f ON f.oid = t.tgfoid
    WHERE c.relnamespace = CAST(current_schema() AS regnamespace) AND f.proname = 'refuse_change'
      AND t.tgqual IS NULL AND t.tgtype & 24 > 0"""
MAY_MAKE = """SELECT current_schema() AS name,
                      has_schema_privilege(:role, current_schema(), 'CREATE') AS makes"""
ROLE = """SELECT r.rolsuper AS commands_all,
                 EXISTS (SELECT 1 FROM pg_tables t WHERE t.schemaname = current_schema()
                         AND pg_has_role(r.oid, t.tableowner, 'MEMBER')) AS owns_some
    FROM pg_roles r WHERE r.rolname = :role"""


def grant(engine: Engine, role: str, *, duty: Duty) -> list[str]:
    """Give a role the rights of a duty, and take any others on our tables away; return what was executed.

    Repeat it after `db upgrade`: rights do not come by themselves to what an upgrade makes.

    Raises:
        UsageError: this is SQLite, there is no such role, the role is above all rights, or it may still make
            tables.
        ServiceUnavailable, SchemaMismatch: as everywhere.
    """
    if engine.dialect.name != "postgresql":
        raise UsageError("SQLite has no roles; whoever reads types: routet2i sql, which cannot write")
    _require(engine, role)
    with transaction(engine) as connection:
        done = _statements(connection, role, duty=duty)
        for statement in done:
            connection.exec_driver_sql(statement)
        found = run(connection, MAY_MAKE, {"role": role}).one()
        if found.makes:  # by way of PUBLIC, or of another role
            raise UsageError(
                f"everybody may make tables here, {role} too; as the owner of the database type: "
                f"REVOKE CREATE ON SCHEMA {found.name} FROM PUBLIC"
            )
    return done


def _require(engine: Engine, role: str) -> None:
    if not re.fullmatch(NAME, role):
        raise UsageError(f"{role!r} is no role: letters, digits, dot, dash and underscore, at most 64")
    with reading(engine) as connection:
        found = run(connection, ROLE, {"role": role}).one_or_none()
    if found is None:
        raise UsageError(
            f"there is no role {role}; as an administrator type: CREATE ROLE {role} LOGIN PASSWORD ..."
        )
    if found.commands_all or found.owns_some:
        raise UsageError(f"{role} is a superuser or owns the tables: no right binds it; name another role")


def _statements(connection: Connection, role: str, *, duty: Duty) -> list[str]:
    quote = connection.dialect.identifier_preparer.quote
    schema = quote(str(run(connection, "SELECT current_schema()").scalar_one()))
    who = quote(role)
    tables = run(connection, TABLES).all()
    sealed = {(row.name, row.verb) for row in run(connection, SEALED)}
    statements = [
        f"REVOKE ALL ON ALL TABLES IN SCHEMA {schema} FROM {who}",
        f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA {schema} FROM {who}",
        f"REVOKE CREATE ON SCHEMA {schema} FROM {who}",
        f"GRANT USAGE ON SCHEMA {schema} TO {who}",
    ]
    for table in tables:
        rights = "SELECT"
        if duty is Duty.APP and not table.is_view and table.name != "alembic_version":
            verbs = ("SELECT", "INSERT", "UPDATE", "DELETE")
            rights = ", ".join(
                verb
                for verb in verbs
                if (table.name, verb) not in sealed or (verb == "UPDATE" and table.name in LOCKED)
            )
        elif table.name in SECRETS:
            columns = run(
                connection,
                """SELECT attname FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
                    AND attrelid = CAST(:name AS regclass) ORDER BY attnum""",
                {"name": f"{schema}.{quote(table.name)}"},
            ).scalars()
            shown = ", ".join(quote(one) for one in columns if one not in SECRETS[table.name])
            rights = f"SELECT ({shown})"
        statements.append(f"GRANT {rights} ON {schema}.{quote(table.name)} TO {who}")
    if duty is Duty.APP:
        statements.append(f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA {schema} TO {who}")
    return statements
