"""Waiting for the ends of jobs, where the database answers badly."""

import asyncio
from collections.abc import Sequence

import pytest

from db.ends import JobEnd
from routet2i.contracts import JobState
from routet2i.errors import ServiceUnavailable
from scheduler.api.lookout import Lookout

END = JobEnd(
    job_id="job", batch_id="batch", state=JobState.SUCCEEDED, not_before_ms=0, defer_reason=None, tier="edge",
    reason=None, micro_usd=0, error_class=None, error=None, pictures=(),
)  # fmt: skip


class Rows:
    """A database that raises what it is told to, and then knows how the job ended."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)

    def ends(self, job_ids: Sequence[str]) -> dict[str, JobEnd]:
        if self._errors:
            raise self._errors.pop(0)
        return dict.fromkeys(job_ids, END)


@pytest.mark.parametrize("error", [ServiceUnavailable("away"), KeyError("a row that is strange")])
def test_who_waits_hears_the_end_after_a_look_that_failed(monkeypatch, error):
    # Given a look that fails twice, for whatever reason
    monkeypatch.setattr("scheduler.api.lookout.BLIND_SECONDS", 0.01)
    lookout = Lookout(Rows(error, error))

    async def wait() -> list[JobEnd | None]:
        return await asyncio.gather(*(lookout.end("job", seconds=10) for _ in range(3)))

    # When the next one works, then all who wait are told
    assert asyncio.run(wait()) == [END] * 3
