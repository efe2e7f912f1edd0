"""Flower for this deployment: a view of the workers, never the audit.

Started as `python -m scheduler.flower PORT [ADDRESS]`, by `scheduler.local` on loopback, and in a container
on an address whose port is published on loopback. Celery's own `flower` command gets an application with the
deployment's key prefix; password and cookie secret come by the environment (FLOWER_BASIC_AUTH,
FLOWER_COOKIE_SECRET), since arguments can be read by everybody on the machine.
"""

import os
import sys

from flower.views.monitor import Metrics
from pydantic import SecretStr
from tornado.web import authenticated

from routet2i.celery_app import make_celery
from routet2i.errors import RouteT2IError
from routet2i.settings import Settings
from scheduler.running import find_broker

LOOPBACK = "127.0.0.1"  # Flower's own default is every address of the machine
LEAST_SECRET = 16  # characters
OPTIONS = (  # reliability.md, section 12; persistence stays off, it is a pickle file
    "--read_only=True",
    "--max_tasks=20000",
    "--purge_offline_workers=60",
    "--persistent=False",
    f"--conf={os.devnull}",  # else it runs a flowerconfig.py of the folder it is started in
    "--tasks_columns=name,state,result,worker,runtime,received,uuid,kwargs",
)


def main(port: int, *, address: str = LOOPBACK) -> None:
    """Serve until SIGTERM; refuse to start as an open page."""
    environment = os.environ  # noqa: TID251 - Flower's own variables, no settings of ours
    if not environment.get("FLOWER_BASIC_AUTH", "").partition(":")[2]:
        raise SystemExit("set FLOWER_BASIC_AUTH=USER:PASSWORD; without it anybody could look")
    if len(environment.get("FLOWER_COOKIE_SECRET", "")) < LEAST_SECRET:
        raise SystemExit(f"set FLOWER_COOKIE_SECRET to {LEAST_SECRET} or more characters nobody can guess")
    settings = Settings()
    try:
        settings = settings.with_changes(broker_url=SecretStr(find_broker(settings)))
    except RouteT2IError as error:
        raise SystemExit(str(error)) from None
    app = make_celery(settings, profile=None)
    Metrics.get = authenticated(Metrics.get)  # Flower's own shows workers and tasks to everybody
    app.start(argv=["flower", f"--address={address}", f"--port={port}", *OPTIONS])


if __name__ == "__main__":
    main(int(sys.argv[1]), address=sys.argv[2] if len(sys.argv) > 2 else LOOPBACK)
