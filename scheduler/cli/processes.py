"""`db`, `worker` and `scheduler`: the parts that a deployment runs one by one.

It connects settings to processes; `routet2i up` does the same for one machine (`scheduler.local`).
"""

import os
import socket
from typing import Annotated

import typer
from pydantic import SecretStr

from db.repository import Repository
from db.session import check_schema, make_engine
from db.session import upgrade as upgrade_schema
from routet2i import tracing
from routet2i.images import ImageStore
from routet2i.log import configure
from routet2i.pulse import Pulse
from routet2i.settings import Settings, share_cores
from routet2i.worker import worker_command
from scheduler import broker
from scheduler.cli import databases
from scheduler.cli.batches import Json
from scheduler.cli.interrupts import Interrupts
from scheduler.cli.session import open_repository, read_settings
from scheduler.cli.show import as_json, console, write_line
from scheduler.dispatch import make_publisher
from scheduler.predictor.live import follow
from scheduler.running import find_broker
from scheduler.service import Scheduler

db = typer.Typer(no_args_is_help=True, help="The database: create it, describe it, say who may read it.")
db.command()(databases.schema)
db.command()(databases.grant)


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


def worker(ctx: typer.Context, tier: Annotated[str, typer.Argument(help="A tier of the tier file.")]) -> None:
    """Run one worker of a tier in the foreground; Ctrl-C lets it finish its microbatch.

    For several machines, with the same settings on each; on one machine `routet2i up` starts all there is.

    Example: routet2i worker edge
    """
    settings = _with_broker(read_settings(ctx))
    profile = settings.read_tiers()[tier]
    open_repository(settings)
    argv = worker_command(profile, name=f"{profile.name}-{os.getpid()}@{socket.gethostname()}")
    environment = settings.with_changes(tier=tier).child_environment(defaults={})
    os.execve(argv[0], argv, environment)  # noqa: S606 - our own argv; Celery gets our terminal and signals


def scheduler(ctx: typer.Context) -> None:
    """Run the scheduler in the foreground; several may run, one leads. Ctrl-C ends it after its window.

    Example: routet2i scheduler
    """
    settings = _with_broker(read_settings(ctx))
    configure(settings, service="scheduler")
    share_cores()
    tiers = settings.read_tiers()
    repository: Repository = open_repository(settings)
    holder = f"scheduler@{socket.gethostname()}:{os.getpid()}"
    pulse = Pulse(settings.home, service="scheduler", name=holder)
    process = Scheduler(
        repository,
        follow(settings.predictor, tiers=tiers, registry=repository),
        tiers=tiers,
        settings=settings,
        publish=make_publisher(settings),
        holder=holder,
        on_turn=pulse.beat,
        tidy=ImageStore(root=settings.pictures).sweep_temporary,
    )
    with Interrupts() as interrupts, tracing.running(settings, service="scheduler"):
        process.run_forever(interrupts.stop)
    pulse.end()


def _with_broker(settings: Settings) -> Settings:
    """Return the settings with a broker that answers and keeps what it is given."""
    url = find_broker(settings)
    broker.check(url)
    return settings.with_changes(broker_url=SecretStr(url))
