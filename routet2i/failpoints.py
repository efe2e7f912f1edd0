"""Places where a process can be made to die at once, so that tests see what a crash there leaves behind.

It knows names and counts. It does not know why anybody would want that: `tests/chaos` does. Nothing is armed
unless `ROUTET2I_FAILPOINT` and `ROUTET2I_TESTING` say so; passing a place costs one look at a dictionary.
"""

import os
import threading

from routet2i.errors import UsageError

NAMES = (
    *("after_claim", "after_intent", "after_http", "after_tmp", "after_replace", "after_settle"),
    *("after_outcome", "before_done", "before_ack", "commit_before_publish", "mid_sweep", "mid_split"),
    *("mid_ingest", "after_ingest_commit", "mid_restore"),
    *("before_intake", "after_intake", "before_stop", "before_finish"),
    *("after_aside",),
)
DIED = 9  # exit code of a process that reached its failpoint
_left: dict[str, int] = {}  # name -> passes until the end, the last one included
_lock = threading.Lock()


def arm(failpoint: str | None) -> None:
    """Let this process die at the n-th pass of a place; None disarms.

    Args:
        failpoint: `name:n`, n from 1.
    Raises:
        UsageError: no such place, or n is no number from 1.
    """
    _left.clear()
    if failpoint is None:
        return
    name, _, passes = failpoint.partition(":")
    if name not in NAMES or not passes.isdecimal() or int(passes) < 1:
        raise UsageError(
            f"{failpoint!r} is no failpoint; write NAME:N with N from 1 and NAME one of: {', '.join(NAMES)}"
        )
    _left[name] = int(passes)


def reach(name: str) -> None:
    """Pass a place; the process ends here, without a word, if that was agreed."""
    if name not in _left:
        return
    with _lock:
        _left[name] -= 1
        if _left[name] == 0:
            os._exit(DIED)
