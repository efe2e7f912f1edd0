"""`worker` and `scheduler`: the parts that a deployment runs one by one.

It connects settings to processes; `routet2i up` does the same for one machine (`scheduler.local`).
"""

import os
import socket
from typing import Annotated

import typer
from pydantic import SecretStr

from db.repository import Repository
from routet2i import tracing
from routet2i.images import ImageStore
from routet2i.log import configure
from routet2i.pulse import Pulse
from routet2i.settings import Settings, share_cores
from routet2i.worker import worker_command
from scheduler import broker
from scheduler.cli.interrupts import Interrupts
from scheduler.cli.session import open_repository, read_settings
from scheduler.dispatch import make_publisher
from scheduler.predictor.live import follow
from scheduler.running import find_broker
from scheduler.service import Scheduler


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
