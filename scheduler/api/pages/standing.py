"""Where batches stand, remembered: a complete batch never changes, one that runs is counted once a second.

Counting goes over all jobs of a batch, and everybody who watches asks for it. It knows `db.audit`, no page.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from db.audit import BatchStatus, batch_status
from db.repository import Repository

KEPT = 5_000  # batches
FRESH_SECONDS = 1.0


@dataclass(slots=True)
class Standing:
    """The figures of the batches of one database, for one process."""

    repository: Repository
    _known: OrderedDict[str, tuple[float, BatchStatus]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counting: dict[str, threading.Lock] = field(default_factory=dict)

    def of(self, batch_id: str) -> BatchStatus:
        """Return where a batch stands, at most `FRESH_SECONDS` old; raises NotFound."""
        found = self._fresh(batch_id)
        if found is not None:
            return found
        with self._lock:
            counting = self._counting.setdefault(batch_id, threading.Lock())
        with counting:  # whoever comes meanwhile takes what this one counts
            found = self._fresh(batch_id)
            if found is None:
                try:
                    found = batch_status(self.repository.engine, batch_id)
                finally:
                    with self._lock:
                        self._counting.pop(batch_id, None)
                self._keep(found)
        return found

    def forget(self, batch_id: str) -> None:
        """Count anew next time: somebody has just changed it."""
        with self._lock:
            self._known.pop(batch_id, None)

    def _fresh(self, batch_id: str) -> BatchStatus | None:
        with self._lock:
            found = self._known.get(batch_id)
            if found is None or (not found[1].complete and time.monotonic() - found[0] > FRESH_SECONDS):
                return None
            self._known.move_to_end(batch_id)
            return found[1]

    def _keep(self, status: BatchStatus) -> None:
        with self._lock:
            self._known[status.batch_id] = time.monotonic(), status
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
