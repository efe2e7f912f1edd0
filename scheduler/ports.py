"""TCP ports on loopback, claimed for as long as a stack runs: of stacks that start together one gets them.

Seconds pass between "this port is free" and a child that listens on it; a lock on a file of this machine, one
for each port, fills them. It opens no port, and knows nothing of programs that claim none.
"""

import fcntl
import os
import tempfile
from pathlib import Path

from scheduler.broker import free_port, is_free


class Ports:
    """The ports of one stack; close it to let others have them."""

    def __init__(self) -> None:
        """Claim nothing yet."""
        self._locks: list[int] = []

    def claim(self, preferred: int) -> int:
        """Return the preferred port if it is free and no other stack's, else any that is free just now."""
        lock = _lock(preferred)
        if lock is None:
            return free_port()
        self._locks.append(lock)
        return preferred

    def close(self) -> None:
        """Let others have them."""
        while self._locks:
            os.close(self._locks.pop())


def _lock(port: int) -> int | None:
    """Return the descriptor that holds a port's lock; None if somebody has it, or listens there."""
    path = Path(tempfile.gettempdir()) / f"routet2i-port-{port}.lock"
    try:
        opened = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(opened)
        return None
    if not is_free(port):
        os.close(opened)
        return None
    return opened
