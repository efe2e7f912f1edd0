"""Alembic's environment: it runs inside the connection and the transaction that `db.session` opened.

It reads no file and no environment: `alembic` is never typed by hand, `routet2i db upgrade` is.
"""

from alembic import context

from db.models import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # SQLite too: our begin hook makes its DDL transactional
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
