"""Flower for this deployment: a view of the workers on loopback, never the audit.

Started by `scheduler.local` as `python -m scheduler.flower PORT`. Celery's own `flower` command gets an
application with the deployment's key prefix; its password and cookie secret come by the environment
(FLOWER_BASIC_AUTH, FLOWER_COOKIE_SECRET), since arguments can be read by everybody on the machine.
"""

import sys

from routet2i.celery_app import make_celery
from routet2i.settings import Settings

ADDRESS = "127.0.0.1"  # Flower's own default is every address of the machine
OPTIONS = (  # reliability.md, section 12; persistence stays off, it is a pickle file
    "--read_only=True",
    "--max_tasks=20000",
    "--purge_offline_workers=60",
    "--auto_refresh=True",
)


def main(port: int) -> None:
    """Serve until SIGTERM."""
    app = make_celery(Settings(), profile=None)
    app.start(argv=["flower", f"--address={ADDRESS}", f"--port={port}", *OPTIONS])


if __name__ == "__main__":
    main(int(sys.argv[1]))
