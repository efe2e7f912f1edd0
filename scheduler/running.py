"""What runs in a home: HOME/run/stack.json, and whether the stack that wrote it still lives.

It starts and stops nothing (`scheduler.local` does) and imports little: probes ask it.
"""

import fcntl
import json
from pathlib import Path
from typing import Any

from routet2i.errors import ServiceUnavailable
from routet2i.settings import Settings


def running(home: Path) -> dict[str, Any] | None:
    """Return what HOME/run/stack.json says, or None if no stack runs there now."""
    folder = home.resolve() / "run"
    try:
        with (folder / "stack.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                found: dict[str, Any] = json.loads(stack_file(folder).read_text(encoding="utf-8"))
                return found
    except (OSError, ValueError):
        pass
    return None


def find_broker(settings: Settings) -> str:
    """Return the broker's URL: the setting, or that of the stack that runs in this home.

    Raises:
        ServiceUnavailable: there is neither.
        UsageError: the setting is no address, or lies open (`routet2i.exposure`).
    """
    if (url := settings.broker) is not None:
        return url
    stack = running(settings.home)
    if stack is None or not stack["broker_url"]:
        raise ServiceUnavailable(
            f"no broker: nothing runs in {settings.home}; type: routet2i up, or set ROUTET2I_BROKER_URL"
        )
    return str(stack["broker_url"])


def stack_file(folder: Path) -> Path:
    """Return where a home's run folder tells what runs."""
    return folder / "stack.json"
