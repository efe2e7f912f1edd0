"""What every command needs first: the settings, and the database they name.

It knows how a command begins, not what it does.
"""

import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import typer
from pydantic import ValidationError

from routet2i import failpoints
from routet2i.errors import MissingModels, SchemaMismatch, UsageError
from routet2i.settings import Settings
from scheduler.budget import purse_of

if TYPE_CHECKING:
    from db.repository import Repository
    from routet2i.contracts import Purse

PROGRAM = "routet2i"


def log_to_stderr() -> None:
    """Keep log lines out of standard output, which belongs to tables, CSV and JSON."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def read_settings(ctx: typer.Context) -> Settings:
    """Return the settings; `--home` beats ROUTET2I_HOME.

    Raises:
        UsageError: a setting is wrong; names it.
    """
    home: Path | None = ctx.find_root().params.get("home")
    try:
        settings = Settings() if home is None else Settings(home=home)
    except ValidationError as error:
        wrong = "; ".join(
            f"ROUTET2I_{'_'.join(map(str, one['loc'])).upper()}: {one['msg']}" for one in error.errors()
        )
        raise UsageError(f"{wrong}; see the settings in README.md") from None  # the input may be a secret
    failpoints.arm(settings.failpoint)
    return settings


def own_purse(settings: Settings) -> "Purse":
    """Return this deployment's money, with the limit that the environment sets."""
    return purse_of(
        deployment=settings.deployment,
        limit_micro_usd=settings.budget_micro_usd,
        seconds=settings.budget_period_seconds,
    )


def typed(ctx: typer.Context) -> str:
    """Return how the program was called, so that a hint works in the same shell and home."""
    home: Path | None = ctx.find_root().params.get("home")
    return program() if home is None else f"{program()} --home {shlex.quote(str(home))}"


def program() -> str:
    """Return what to type for this program: its path where the shell would not find its name."""
    called = Path(sys.argv[0])
    if called.name != PROGRAM or shutil.which(PROGRAM):
        return PROGRAM
    return shlex.quote(str(called))


def open_repository(settings: Settings) -> "Repository":
    """Return the verbs on a database whose schema is ours.

    Raises:
        SchemaMismatch: there is no database yet, or its schema is another.
        ServiceUnavailable: it does not answer.
        UsageError: SQLite on a network file system.
    """
    from db.integrity import refuse_network_disk
    from db.repository import Repository  # a probe begins here too and needs none of it
    from db.session import check_schema, make_engine

    if not settings.has_database:
        raise SchemaMismatch(
            f"no database in {settings.home}; type: routet2i up (starts everything) or routet2i db upgrade"
        )
    engine = make_engine(settings.database)
    refuse_network_disk(engine)
    check_schema(engine)
    return Repository(engine)


@contextmanager
def models_needed() -> Iterator[None]:
    """Say what to install where an import inside fails; raises MissingModels."""
    try:
        yield
    except ImportError as error:
        raise MissingModels(f"{error}; type: pip install 'routet2i[models]'") from error
