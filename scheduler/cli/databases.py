"""`db`: make the database and bring it up to date, say what stands in it and who may do what with it.

It prints; the page is `db.schema_page`, rights are `db.roles`.
"""

from pathlib import Path
from typing import Annotated

import typer

from db.roles import Duty
from db.roles import grant as grant_rights
from db.session import check_schema, make_engine
from db.session import upgrade as upgrade_schema
from routet2i.settings import Settings
from scheduler.cli.batches import Json
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import as_json, console, write_line

db = typer.Typer(no_args_is_help=True, help="The database: create it, describe it, say who may read it.")


@db.command()
def upgrade(ctx: typer.Context, json: Json = False) -> None:
    """Create the database's tables, or bring them to this program's version; repeat as you like.

    Example: routet2i db upgrade
    """
    settings = read_settings(ctx)
    upgrade_schema(settings.database)
    _print_current(settings, json=json)


@db.command()
def current(ctx: typer.Context, json: Json = False) -> None:
    """Say whether the database's schema is this program's; exit code 5 if not.

    Example: routet2i db current
    """
    settings = read_settings(ctx)
    open_repository(settings)
    _print_current(settings, json=json)


def _print_current(settings: Settings, *, json: bool) -> None:
    engine = make_engine(settings.database)
    check_schema(engine)
    url = engine.url.render_as_string(hide_password=True)
    if json:
        write_line(as_json({"url": url, "current": True}))
    else:
        console().print(f"schema is current: {url}", soft_wrap=True)


@db.command()
def schema(
    output: Annotated[Path | None, typer.Option(help="Write to this file, not to standard output.")] = None,
) -> None:
    """Print the schema as a Markdown page: entity diagram, views, tables, every column in words.

    Example: routet2i db schema --output docs/schema.md
    """
    from db.schema_page import page
    from scheduler.cli.results import output_stream

    with output_stream(output) as stream:
        stream.write(page())


@db.command()
def grant(
    ctx: typer.Context,
    role: Annotated[str, typer.Argument(help="A role of PostgreSQL that exists already.")],
    duty: Annotated[
        Duty,
        typer.Option("--as", help="auditor: reads all but secrets; app: writes rows, too."),
    ] = Duty.AUDITOR,
    json: Json = False,
) -> None:
    """Give a PostgreSQL role the rights of an auditor or of the program; repeat it after `db upgrade`.

    Example: routet2i db grant analyst --as auditor
    """
    done = grant_rights(open_repository(read_settings(ctx)).engine, role, duty=duty)
    if json:
        write_line(as_json({"role": role, "as": duty, "statements": done}))
        return
    means = "reads all but secrets" if duty is Duty.AUDITOR else "reads and writes rows, and makes no table"
    console().print(f"{role} {means}", soft_wrap=True)
