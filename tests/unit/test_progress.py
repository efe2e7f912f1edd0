"""How far a microbatch is, from the store to Celery's events."""

from routet2i.contracts import ClaimedJob, JobOutcome, JobState
from routet2i.fakes import FakeStore
from routet2i.progress import Progress


class Request:
    """Keeps what it is asked to tell."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def send_event(self, type: str, **fields: object) -> None:
        self.told.append((type, fields["result"]))


def failed(job_id: str) -> JobOutcome:
    return JobOutcome(job_id=job_id, state=JobState.FAILED, micro_usd=0, error_class="GenerationFailed")


def test_what_the_store_knows_is_told_of_what_is_in_hand() -> None:
    # Given a microbatch of three jobs in hand, and one that was in hand before
    store, request, progress = FakeStore(), Request(), Progress()
    jobs = [
        ClaimedJob(job_id=f"j{k}", prompt="a", negative_prompt=None, seed=k, n=1, micro_usd=0)
        for k in range(3)
    ]
    microbatch = store.add(jobs, tier="edge")
    claim = store.claim(microbatch, tier="edge", worker="edge-1@here", lease_seconds=60)
    assert claim is not None
    progress.look(store)
    progress.tell({microbatch: request})
    assert request.told == []  # nobody has looked yet
    # When one job has its outcome, and the heartbeat looks
    store.record(claim, [failed("j0")])
    progress.look(store)
    progress.tell({microbatch: request})
    # Then its task says so
    assert request.told == [("task-progress", "1 of 3 jobs")]
    # And what is in hand no more is told no more, and asked for no more
    progress.tell({})
    store.record(claim, [failed("j1")])
    progress.look(store)
    progress.tell({microbatch: request})
    assert len(request.told) == 1
