"""Where batches stand, remembered: one that runs is counted once a second, of a complete one money is reread.

Counting goes over all jobs of a batch, and everybody who watches asks for it. A complete batch's jobs stay as
they are; what was spent and may be spent can still change. It knows `db.audit`, no page.
"""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from db.audit import BatchStatus, batch_status, renewed
from db.repository import Repository

KEPT = 5_000  # batches
FRESH_SECONDS = 1.0
MONEY_SECONDS = 10.0  # of a complete batch


@dataclass(slots=True)
class Standing:
    """The figures of the batches of one database, for one process."""

    repository: Repository
    _known: OrderedDict[str, tuple[float, BatchStatus]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _counting: dict[str, threading.Lock] = field(default_factory=dict)

    def of(self, batch_id: str) -> BatchStatus:
        """Return where a batch stands, at most `FRESH_SECONDS` old, or `MONEY_SECONDS`; raises NotFound."""
        found = self._fresh(batch_id)
        if found is not None:
            return found
        with self._lock:
            counting = self._counting.setdefault(batch_id, threading.Lock())
        with counting:  # whoever comes meanwhile takes what this one counts
            found = self._fresh(batch_id)
            if found is None:
                try:
                    found = self._asked(batch_id)
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
            if found is None:
                return None
            asked_at, status = found
            if time.monotonic() - asked_at > (MONEY_SECONDS if status.complete else FRESH_SECONDS):
                return None
            self._known.move_to_end(batch_id)
            return status

    def _asked(self, batch_id: str) -> BatchStatus:
        with self._lock:
            _, old = self._known.get(batch_id, (0.0, None))
        engine = self.repository.engine
        return batch_status(engine, batch_id) if old is None else renewed(engine, old)

    def _keep(self, status: BatchStatus) -> None:
        with self._lock:
            self._known[status.batch_id] = time.monotonic(), status
            while len(self._known) > KEPT:
                self._known.popitem(last=False)
