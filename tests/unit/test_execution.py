"""`run_microbatch` against fakes: what is claimed, recorded, given back and left alone."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace

import pytest

from routet2i.contracts import Claim, ClaimedJob, JobOutcome, JobState, MicrobatchState, TierKind
from routet2i.errors import (
    DeviceFault,
    GenerationFailed,
    LeaseLost,
    ModelError,
    ServiceUnavailable,
    StoreFull,
)
from routet2i.execution import Generator, Lease, Outcome, RenderRequest, Scorer, run_microbatch
from routet2i.fakes import FakeGenerator, FakePictures, FakeScorer, FakeStore
from routet2i.tiers import TierProfile

EDGE = TierProfile(
    name="edge",
    kind=TierKind.EDGE,
    queue="edge",
    model="pocket:edge",
    revision=None,
    variant=None,
    dtype="float32",
    device="cpu",
    steps=1,
    guidance=1.0,
    width=64,
    height=64,
    gpu_class="cpu",
    micro_usd_per_image=9000,
    microbatch_size=4,
)


def job(name: str, *, n: int = 1, seed: int = 7) -> ClaimedJob:
    return ClaimedJob(
        job_id=name, prompt=f"prompt of {name}", negative_prompt=None, seed=seed, n=n, micro_usd=9000 * n
    )


class Bad(FakeGenerator):
    """Fails each picture of the named prompts; `whole` raises instead of returning."""

    def __init__(self, *prompts: str, whole: Exception | None = None) -> None:
        super().__init__()
        self.prompts = prompts
        self.whole = whole

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        pictures = super().generate(requests)
        if self.whole is not None:
            raise self.whole
        return [
            GenerationFailed("cannot be drawn") if request.prompt in self.prompts else picture
            for request, picture in zip(requests, pictures, strict=True)
        ]


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def pictures() -> FakePictures:
    return FakePictures()


Run = Callable[..., Outcome]


@pytest.fixture
def run(store: FakeStore, pictures: FakePictures) -> Run:
    def run(
        microbatch_id: str,
        *,
        generator: Generator | None = None,
        scorer: Scorer | None = None,
        load: Callable[[], tuple[Generator, Scorer]] | None = None,
        profile: TierProfile = EDGE,
        stop: threading.Event | None = None,
        lease_seconds: float = 45.0,
        store: FakeStore = store,
        pictures: FakePictures = pictures,
    ) -> Outcome:
        models = (generator or FakeGenerator(), scorer or FakeScorer(["detail"]))
        return run_microbatch(
            microbatch_id,
            store=store,
            profile=profile,
            worker="w1",
            load=load or (lambda: models),
            pictures=pictures,
            lease_seconds=lease_seconds,
            stop=stop,
        )

    return run


def test_every_job_of_a_microbatch_succeeds_with_its_pictures_and_its_price(
    store: FakeStore, pictures: FakePictures, run: Run
) -> None:
    # Given six jobs, one of them of three pictures, and a group size of four
    jobs = [job("a", n=3, seed=100), *(job(name) for name in "bcdef")]
    microbatch = store.add(jobs, tier="edge")
    generator = FakeGenerator()
    # When a worker runs the microbatch
    outcome = run(microbatch, generator=generator)
    # Then it is closed, in two groups, and each outcome has all its pictures and all its money
    assert outcome is Outcome.DONE
    assert store.state(microbatch) is MicrobatchState.DONE
    assert generator.calls == [4, 4]
    outcomes = store.outcomes(microbatch)
    assert [outcomes[one.job_id].state for one in jobs] == [JobState.SUCCEEDED] * 6
    assert outcomes["a"].micro_usd == 27_000
    assert [(p.index, p.seed) for p in outcomes["a"].pictures] == [(0, 100), (1, 101), (2, 102)]
    assert {p.sha256 for one in outcomes.values() for p in one.pictures} == set(pictures.stored)
    assert set(outcomes["b"].pictures[0].scores) == {"detail"}


def test_a_job_whose_pictures_span_groups_is_recorded_once_when_all_are_there(
    store: FakeStore, run: Run
) -> None:
    microbatch = store.add([job("a"), job("b", n=5), job("c")], tier="edge")
    run(microbatch)
    assert store.recorded == [["a"], ["b", "c"]]
    assert len(store.outcomes(microbatch)["b"].pictures) == 5


def test_a_redelivered_message_does_not_generate_twice(store: FakeStore, run: Run) -> None:
    # Given a microbatch that another worker has claimed
    microbatch = store.add([job("a")], tier="edge")
    store.claim(microbatch, tier="edge", worker="first", lease_seconds=45)
    generator = FakeGenerator()
    # When its message arrives again
    outcome = run(microbatch, generator=generator)
    # Then nothing is generated and the first claim stands
    assert outcome is Outcome.NOTHING_TO_CLAIM
    assert generator.calls == []
    assert store.state(microbatch) is MicrobatchState.CLAIMED


def test_work_of_another_tier_is_refused(store: FakeStore, run: Run) -> None:
    microbatch = store.add([job("a")], tier="cloud")
    assert run(microbatch) is Outcome.NOTHING_TO_CLAIM
    assert store.state(microbatch) is MicrobatchState.READY


def test_a_picture_that_cannot_be_made_fails_its_job_and_not_its_neighbours(
    store: FakeStore, run: Run
) -> None:
    microbatch = store.add([job("a"), job("b", n=3), job("c")], tier="edge")
    outcome = run(microbatch, generator=Bad("prompt of b"))
    assert outcome is Outcome.DONE
    outcomes = store.outcomes(microbatch)
    assert {name: one.state for name, one in outcomes.items()} == {
        "a": JobState.SUCCEEDED,
        "b": JobState.FAILED,
        "c": JobState.SUCCEEDED,
    }
    assert (outcomes["b"].error_class, outcomes["b"].error) == ("GenerationFailed", "cannot be drawn")
    assert (outcomes["b"].micro_usd, outcomes["b"].pictures) == (0, ())


def test_a_job_that_has_failed_gets_no_more_pictures(store: FakeStore, run: Run) -> None:
    microbatch = store.add([job("a", n=40)], tier="edge")
    generator = Bad("prompt of a")
    run(microbatch, generator=generator)
    assert generator.calls == [4]


@pytest.mark.parametrize("broken", ["generator", "scorer"])
def test_an_unknown_error_of_a_group_fails_its_jobs_instead_of_coming_back_for_ever(
    store: FakeStore, run: Run, broken: str
) -> None:
    class Confused(FakeScorer):
        def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
            raise ValueError("no idea")

    microbatch = store.add([job("a"), job("b")], tier="edge")
    if broken == "generator":
        outcome = run(microbatch, generator=Bad(whole=ValueError("no idea")))
    else:
        outcome = run(microbatch, scorer=Confused(["detail"]))
    assert outcome is Outcome.DONE
    assert [one.error_class for one in store.outcomes(microbatch).values()] == ["ValueError"] * 2


def test_an_unknown_error_that_one_job_causes_spares_its_neighbours(store: FakeStore, run: Run) -> None:
    # Given a generator and a judge that each stumble over a group with one certain job in it
    class Picky(FakeGenerator):
        def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
            if any(request.prompt == "prompt of b" for request in requests):
                raise RecursionError("maximum recursion depth exceeded")
            return super().generate(requests)

    class Puzzled(FakeScorer):
        def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
            if "prompt of c" in prompts:
                raise ValueError("no idea")
            return super().score(pictures, prompts)

    # When a microbatch with both is rendered
    microbatch = store.add([job(name) for name in "abcd"], tier="edge")
    assert run(microbatch, generator=Picky(), scorer=Puzzled(["detail"])) is Outcome.DONE
    # Then only those two fail
    assert {name: one.error_class for name, one in store.outcomes(microbatch).items()} == {
        "a": None,
        "b": "RecursionError",
        "c": "ValueError",
        "d": None,
    }


def test_a_cancelled_job_is_not_rendered_though_the_claim_is_older(store: FakeStore, run: Run) -> None:
    # Given eight jobs in two groups
    microbatch = store.add([job(name) for name in "abcdefgh"], tier="edge")

    class Slow(FakeGenerator):
        def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
            store.cancel("f")  # somebody cancels while the first group renders
            return super().generate(requests)

    # When one of the second group is cancelled during the first
    generator = Slow()
    outcome = run(microbatch, generator=generator)
    # Then it alone has no outcome from this worker
    assert outcome is Outcome.DONE
    assert generator.calls == [4, 3]
    assert set(store.outcomes(microbatch)) == set("abcdegh")


def test_a_model_that_cannot_be_loaded_gives_the_work_back(store: FakeStore, run: Run) -> None:
    def broken() -> tuple[Generator, Scorer]:
        raise ModelError("no such folder")

    microbatch = store.add([job("a")], tier="edge")
    with pytest.raises(ModelError):
        run(microbatch, load=broken)
    assert store.state(microbatch) is MicrobatchState.READY
    assert store.releases == [(microbatch, "ModelError")]


def test_a_disk_that_fills_gives_the_rest_back_and_keeps_what_is_recorded(store: FakeStore, run: Run) -> None:
    class Filling(FakePictures):
        def put(self, png: bytes) -> str:
            if len(self.stored) == 4:
                raise StoreFull("no room")
            return super().put(png)

    microbatch = store.add([job(name) for name in "abcdef"], tier="edge")
    with pytest.raises(StoreFull):
        run(microbatch, pictures=Filling())
    assert set(store.outcomes(microbatch)) == set("abcd")
    assert store.state(microbatch) is MicrobatchState.READY


def test_without_room_nothing_is_even_claimed(store: FakeStore, run: Run) -> None:
    class Full(FakePictures):
        def check_room(self) -> None:
            raise StoreFull("no room")

    microbatch = store.add([job("a")], tier="edge")
    with pytest.raises(StoreFull):
        run(microbatch, pictures=Full())
    assert store.state(microbatch) is MicrobatchState.READY
    assert store.releases == []


def test_a_lost_device_keeps_the_claim_so_that_the_sweeper_counts_a_death(store: FakeStore, run: Run) -> None:
    microbatch = store.add([job("a")], tier="edge")
    with pytest.raises(DeviceFault):
        run(microbatch, generator=Bad(whole=DeviceFault("CUDA error: device-side assert triggered")))
    assert store.state(microbatch) is MicrobatchState.CLAIMED
    assert store.outcomes(microbatch) == {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which a worker is patient: it goes on while it sleeps only, however busy the machine is."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    told = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr("routet2i.execution.time", told)
    return now


class Away(FakeStore):
    """Answers no record until it was asked so many times, at first when so many renewals have failed."""

    def __init__(self, *, failures: int, renewals: int = 0, expires: bool = False) -> None:
        super().__init__()
        self.failures = failures
        self.renewals = threading.Semaphore(0)
        self.waited_for = renewals
        self.expires = expires
        self.told: list[str] = []  # microbatches whose workers said that they were cut off

    def record(self, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
        for _ in range(self.waited_for):
            assert self.renewals.acquire(timeout=60)
        self.waited_for = 0
        if self.failures > 0:
            self.failures -= 1
            raise ServiceUnavailable("the database does not answer")
        if self.expires:
            self.expire(claim.microbatch_id)
        return super().record(claim, outcomes)

    def renew(self, claim: Claim) -> bool:
        if self.failures > 0:
            self.renewals.release()
            raise ServiceUnavailable("the database does not answer")
        return super().renew(claim)

    def report_cut_off(self, claim: Claim) -> bool:
        self.told.append(claim.microbatch_id)
        return super().report_cut_off(claim)


def test_a_picture_that_is_drawn_while_the_database_is_away_is_recorded_when_it_is_back(
    run: Run, clock: list[float]
) -> None:
    # Given a database that answers nothing for a while, longer than two renewals
    store = Away(failures=3, renewals=2)
    microbatch = store.add([job("a")], tier="edge")
    # When a worker has drawn
    outcome = run(microbatch, store=store, lease_seconds=0.9)
    # Then nothing is drawn in vain
    assert outcome is Outcome.DONE
    assert set(store.outcomes(microbatch)) == {"a"}
    assert store.told == []


def test_a_database_that_stays_away_ends_the_run_and_the_worker_says_that_it_lived(run: Run) -> None:
    store = Away(failures=10**9)
    microbatch = store.add([job("a")], tier="edge")
    with pytest.raises(ServiceUnavailable):
        run(microbatch, store=store, lease_seconds=0.3)
    assert store.told == [microbatch]
    assert store.outcomes(microbatch) == {}


def test_a_worker_that_lost_its_lease_with_the_database_says_so_one_that_stood_still_does_not(
    run: Run, clock: list[float]
) -> None:
    # Given a database that was away until the sweeper had ended the claim
    away, slow = Away(failures=3, renewals=1, expires=True), Away(failures=0, expires=True)
    for store in (away, slow):
        microbatch = store.add([job("a")], tier="edge")
        # When its worker comes back
        assert run(microbatch, store=store, lease_seconds=0.9) is Outcome.LEASE_LOST
        assert store.outcomes(microbatch) == {}
    # Then it speaks for itself only if its renewals had failed
    assert (len(away.told), slow.told) == (1, [])


def test_a_stop_finishes_the_group_and_gives_the_rest_back(store: FakeStore, run: Run) -> None:
    stop = threading.Event()

    class Stopping(FakeGenerator):
        def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
            stop.set()
            return super().generate(requests)

    microbatch = store.add([job(name) for name in "abcdef"], tier="edge")
    assert run(microbatch, generator=Stopping(), stop=stop) is Outcome.RELEASED
    assert set(store.outcomes(microbatch)) == set("abcd")
    assert store.releases == [(microbatch, "drain")]


def test_a_worker_overtaken_by_a_newer_claim_writes_nothing_more(store: FakeStore, run: Run) -> None:
    microbatch = store.add([job("a")], tier="edge")

    class Overtaken(FakeGenerator):
        def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
            store.expire(microbatch)
            return super().generate(requests)

    assert run(microbatch, generator=Overtaken()) is Outcome.LEASE_LOST
    assert store.outcomes(microbatch) == {}
    assert store.releases == []


class Renewals(FakeStore):
    """Answers renewals from a list and tells when the last was asked."""

    def __init__(self, answers: Sequence[bool | Exception]) -> None:
        super().__init__()
        self.answers: Iterator[bool | Exception] = iter(answers)
        self.exhausted = threading.Event()
        self.asked = 0

    def renew(self, claim: Claim) -> bool:
        self.asked += 1
        answer = next(self.answers, None)
        if answer is None:
            self.exhausted.set()
            return True
        if isinstance(answer, Exception):
            raise answer
        return answer


def claimed(store: FakeStore, *, lease_seconds: float) -> Claim:
    microbatch = store.add([job("a")], tier="edge")
    claim = store.claim(microbatch, tier="edge", worker="w1", lease_seconds=lease_seconds)
    assert claim is not None
    return claim


def lost(lease: Lease, *, within: float = 60.0) -> bool:
    """Wait until the lease is not trusted any more."""
    deadline = threading.Event()
    for _ in range(int(within / 0.005)):
        try:
            lease.check()
        except LeaseLost:
            return True
        deadline.wait(0.005)
    return False


def test_a_renewed_lease_outlives_its_first_term(clock: list[float]) -> None:
    # Given a clock that goes on by a third of a lease with each renewal

    class Ticking(Renewals):
        def renew(self, claim: Claim) -> bool:
            clock[0] += claim.lease_seconds / 3
            lease.check()
            return super().renew(claim)

    store = Ticking([True] * 12)
    lease = Lease(store, claimed(store, lease_seconds=0.09), since=clock[0])
    with lease:
        assert store.exhausted.wait(60)  # 12 renewals: four terms
        assert clock[0] > 4 * 0.09
        lease.check()


@pytest.mark.parametrize(
    "answers",
    [[False], [ServiceUnavailable("gone"), ServiceUnavailable("gone")]],
    ids=["refused", "two in a row failed"],
)
def test_a_lease_is_lost_when_a_renewal_is_refused_or_two_fail(answers: list[bool | Exception]) -> None:
    store = Renewals(answers)
    claim = replace(claimed(store, lease_seconds=0.06), lease_seconds=0.06)
    with Lease(store, claim, since=time.monotonic() + 60) as lease:  # its deadline alone would not end it
        assert lost(lease)
    assert store.asked == len(answers)


def test_one_failed_renewal_is_forgiven() -> None:
    store = Renewals([ServiceUnavailable("gone"), True, ServiceUnavailable("gone"), True])
    with Lease(store, claimed(store, lease_seconds=0.06), since=time.monotonic() + 60) as lease:
        assert store.exhausted.wait(60)
        assert not lease._lost


def test_trust_ends_before_the_lease_does() -> None:
    # Given a lease of 100 s asked for 95.1 s ago, of which the last 5 s are not trusted
    store = FakeStore()
    lease = Lease(store, claimed(store, lease_seconds=100), since=time.monotonic() - 95.1)
    # Then it is not used any more, though the database still holds it
    with pytest.raises(LeaseLost):
        lease.check()


def test_the_renewal_thread_runs_before_the_models_load(store: FakeStore, run: Run) -> None:
    # Given a load that lasts until the lease is renewed
    renewed = threading.Event()

    class Watching(FakeStore):
        def renew(self, claim: Claim) -> bool:
            renewed.set()
            return super().renew(claim)

    def slow() -> tuple[Generator, Scorer]:
        assert renewed.wait(60)
        return FakeGenerator(), FakeScorer(["detail"])

    watching = Watching()
    microbatch = watching.add([job("a")], tier="edge")
    assert run(microbatch, store=watching, load=slow, lease_seconds=6.0) is Outcome.DONE


class Forgetful(FakeScorer):
    """Has memory for one picture at a time, and none at all for one prompt."""

    def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        if len(pictures) > 1 or "prompt of b" in prompts:
            raise MemoryError
        return super().score(pictures, prompts)


def test_without_memory_for_a_group_its_halves_are_tried(store: FakeStore, run: Run) -> None:
    # Given a judge that has memory for one picture, and none for job b
    microbatch = store.add([job(name) for name in "abcd"], tier="edge")
    # When the microbatch runs
    assert run(microbatch, scorer=Forgetful(["detail"])) is Outcome.DONE
    # Then b alone fails
    states = {name: one.state for name, one in store.outcomes(microbatch).items()}
    assert states == {name: JobState.FAILED if name == "b" else JobState.SUCCEEDED for name in "abcd"}


def test_a_lost_device_that_the_judge_notices_ends_the_process_too(store: FakeStore, run: Run) -> None:
    class Lost(FakeScorer):
        def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    microbatch = store.add([job("a"), job("b")], tier="edge")
    with pytest.raises(DeviceFault):
        run(microbatch, scorer=Lost(["detail"]))
    assert store.state(microbatch) is MicrobatchState.CLAIMED
