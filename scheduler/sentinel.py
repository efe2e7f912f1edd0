"""Kill what a dead parent has left behind: one tiny process per stack.

The parent writes `+PGID` and `-PGID` lines to this process's standard input. When that pipe closes, however
the parent ended (SIGKILL and the out-of-memory killer included), every process group still on the list gets
SIGKILL; SQL leases bring their work back. It knows process groups and nothing else, and imports no package.
"""

import contextlib
import os
import signal
import sys
from typing import TextIO


def guard(stream: TextIO) -> set[int]:
    """Follow the list until the pipe closes, and return the process groups that are left on it."""
    groups: set[int] = set()
    for line in stream:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    return groups


if __name__ == "__main__":
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)  # only the parent's end ends us
    for left in guard(sys.stdin):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(left, signal.SIGKILL)
