"""Waiting for jobs to end: one question to the database for all who wait, a few times a second.

It knows ids and ends; a caller that waits costs no thread. While nobody waits, nothing is asked.
"""

import asyncio
from collections import defaultdict

import structlog
from starlette.concurrency import run_in_threadpool

from db.ends import JobEnd
from db.repository import Repository
from routet2i.contracts import DEFERRED_BY
from routet2i.errors import RouteT2IError

LOOK_SECONDS = 0.2  # between two questions
BLIND_SECONDS = 2.0  # after one that the database did not answer
SHORT_OF_MONEY = frozenset(DEFERRED_BY.values())
_log = structlog.get_logger(__name__)


class Lookout:
    """Of one process; it works on the event loop of those who wait."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._waiting: dict[str, dict[asyncio.Future[JobEnd], int]] = defaultdict(dict)
        self._looking: asyncio.Task[None] | None = None

    async def end(self, job_id: str, *, seconds: float, known_ms: int = 0) -> JobEnd | None:
        """Return how a job ended, or that a window found no money for it; None if it takes longer.

        Args:
            known_ms: the job's `not_before_ms` when it was asked for; only a later one tells of a new window.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[JobEnd] = loop.create_future()
        self._waiting[job_id][future] = known_ms
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look())
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return None
        finally:
            futures = self._waiting[job_id]
            futures.pop(future)
            if not futures:
                del self._waiting[job_id]

    async def _look(self) -> None:
        while self._waiting:
            try:
                found = await run_in_threadpool(self._repository.ends, list(self._waiting))
            except RouteT2IError as error:
                _log.warning("lookout_blind", error=str(error), retry_seconds=BLIND_SECONDS)
                await asyncio.sleep(BLIND_SECONDS)
                continue
            except Exception:  # the task would end, and all who wait would learn nothing
                _log.critical("lookout_failed", exc_info=True)
                await asyncio.sleep(BLIND_SECONDS)
                continue
            for job_id, end in found.items():
                if end.state is None and end.defer_reason not in SHORT_OF_MONEY:
                    continue
                for future, known_ms in self._waiting.get(job_id, {}).items():
                    told = end.state is not None or end.not_before_ms > known_ms
                    if told and not future.done():
                        future.set_result(end)
            await asyncio.sleep(LOOK_SECONDS)
