"""The scheduler's loop on real databases; a worker is played by calling claim, record and finish."""

import hashlib
import json
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from db.audit import batch_status, check_invariants
from db.pauses import Paused
from routet2i.contracts import JobOutcome, JobState, Picture, Prediction, Yardstick
from routet2i.errors import LeaseLost, ServiceUnavailable
from routet2i.settings import Settings
from routet2i.tiers import packaged, read_tiers
from scheduler.predictor.interface import Random
from scheduler.service import Scheduler, look_for_drift, run_window, sweep
from scheduler.shadows import is_drawn
from scheduler.submit import submit_file

TIERS = read_tiers(packaged("pocket"))  # edge 9,000 and cloud 65,000 micro-dollars a picture
SQLITE = pytest.mark.parametrize("engine", ["sqlite"], indirect=True)
DEADLINE = 90.0  # seconds; far more than any of this takes


class ByNumber:
    """A predictor for prompts that end in their PRS in percent."""

    name = "by_number"
    version = "test"

    def predict(self, prompts):
        return [Prediction(prs=int(prompt.split()[-1]) / 100) for prompt in prompts]


class FakeWorker:
    """Takes messages as a queue does, and renders each at once; tells when enough jobs are done."""

    def __init__(self, repository, *, expected=10**9):
        self._repository = repository
        self._expected = expected
        self.done = threading.Event()
        self.tiers = Counter()

    def __call__(self, microbatch, profile):
        claim = self._repository.claim(
            microbatch.microbatch_id, tier=profile.name, worker=f"fake-{profile.name}", lease_seconds=30
        )
        self._repository.record(claim, [self._outcome(job, claim) for job in claim.jobs])
        assert self._repository.finish(claim)
        self.tiers[profile.name] += len(claim.jobs)
        if self.tiers.total() >= self._expected:
            self.done.set()

    @staticmethod
    def _outcome(job, claim):
        pictures = tuple(
            Picture(
                index=i,
                seed=job.seed + i,
                sha256=hashlib.sha256(f"{job.job_id} {i}".encode()).hexdigest(),
                width=claim.width,
                height=claim.height,
                scores={"detail": 0.5},
            )
            for i in range(job.n)
        )
        return JobOutcome(
            job_id=job.job_id, state=JobState.SUCCEEDED, micro_usd=job.micro_usd, pictures=pictures
        )


def submit(repository, tmp_path, prompts, *, budget=None, name="prompts.txt"):
    path = tmp_path / name
    path.write_text("".join(f"{prompt}\n" for prompt in prompts))
    return submit_file(repository, path, tiers=TIERS, settings=Settings(), budget_micro_usd=budget).batch_id


def rows(repository, query, **values):
    with repository.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query), values)]


def decisions(repository):
    """tier, reason, prs, threshold per job, in file order."""
    return rows(
        repository,
        "SELECT a.tier, a.reason, a.prs, a.threshold FROM assignment a JOIN job j ON j.id = a.job_id "
        "ORDER BY j.seq",
    )


def window(repository, predictor=None, *, now=0.0, term=None, **settings):
    return run_window(
        repository, predictor or ByNumber(), tiers=TIERS, settings=Settings(**settings), term=term, now=now
    )


def make_scheduler(repository, publish, *, holder="one", current=Random, clock=time.monotonic, **settings):
    return Scheduler(
        repository,
        current,
        tiers=TIERS,
        settings=Settings(**({"window_seconds": 0.05} | settings)),
        publish=publish,
        holder=holder,
        clock=clock,
    )


class Running:
    """A scheduler in a thread, stopped at the end of the block; its error is raised there."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.stop = threading.Event()
        self.error = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self.scheduler.run_forever(self.stop)
        except Exception as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def end(self):
        self.stop.set()
        self.thread.join(DEADLINE)
        assert not self.thread.is_alive()

    def __exit__(self, *_):
        self.end()
        if self.error is not None:
            raise self.error


def until(condition):
    """Wait for a condition with a deadline."""
    pause, deadline = threading.Event(), time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        pause.wait(0.01)


# --- one window ------------------------------------------------------------------------------------------


def test_nothing_queued_is_no_window(repository):
    assert window(repository) is None


def test_a_window_is_recorded_with_reasons_threshold_and_predictor(repository, tmp_path):
    # Given four jobs and money for the edge price of all and one upgrade (56,000)
    submit(repository, tmp_path, ["a 10", "b 20", "c 60", "d 30"], budget=4 * 9000 + 60_000)
    # When a window is run
    recorded = window(repository)
    # Then the job with the lowest PRS is upgraded, and each row tells why
    assert (recorded.assigned, recorded.deferred, recorded.fallback) == (4, 0, 0)
    assert decisions(repository) == [
        ("cloud", "predicted_better_on_cloud", 0.1, 0.2),
        ("edge", "cloud_money_short", 0.2, 0.2),
        ("edge", "predicted_better_on_edge", 0.6, 0.2),
        ("edge", "cloud_money_short", 0.3, 0.2),
    ]
    assert rows(
        repository,
        "SELECT policy, predictor_name, predictor_version, available_micro_usd FROM decision_window",
    ) == [("bid_price", "by_number", "test", 96_000)]


def test_money_that_one_window_leaves_is_spent_by_the_next(repository, tmp_path):
    # Given a first window of jobs that are better on the edge, and a second one of the others
    submit(repository, tmp_path, ["a 90", "b 90", "c 10", "d 20"], budget=4 * 9000 + 2 * 56_000)
    for _ in range(2):
        window(repository, window_jobs=2)
    # Then the second may spend all that is left, and it is enough for both
    assert [tier for tier, *_ in decisions(repository)] == ["edge", "edge", "cloud", "cloud"]


def test_each_batch_of_a_window_has_its_own_threshold(repository, tmp_path):
    submit(repository, tmp_path, ["a 10", "b 20"], budget=2 * 9000, name="poor.txt")
    submit(repository, tmp_path, ["c 10", "d 20"], budget=None, name="rich.txt")
    window(repository)
    assert sorted({(tier, threshold) for tier, _, _, threshold in decisions(repository)}) == [
        ("cloud", 0.5),
        ("edge", pytest.approx(0.1)),
    ]


def test_a_window_of_an_old_term_writes_nothing(repository, tmp_path):
    # Given a leader that was replaced
    submit(repository, tmp_path, ["a 10"])
    old = repository.elect(holder="old", ttl_seconds=15)
    repository.resign(holder="old", term=old)
    until(lambda: repository.elect(holder="new", ttl_seconds=15) is not None)
    # When it still closes its window
    with pytest.raises(LeaseLost):
        window(repository, term=old)
    # Then the job still waits
    assert decisions(repository) == []
    assert window(repository, term=old + 1).assigned == 1


def test_a_deployments_budget_defers_jobs_until_its_next_period(repository, tmp_path):
    # Given 30,000 per hour for the whole deployment, and five jobs of 9,000 without a limit of their own
    limits = {"budget_micro_usd": 30_000, "budget_period_seconds": 3600}
    submit(repository, tmp_path, [f"p{i} 10" for i in range(5)])
    # When windows are run in the first hour
    first = window(repository, now=10.0, **limits)
    # Then three are drawn on the edge, and two wait for money
    assert (first.assigned, first.deferred) == (3, 2)
    waiting = rows(repository, "SELECT defer_reason FROM job WHERE state = 'queued'")
    assert waiting == [("deployment_budget",)] * 2
    assert {tier for tier, *_ in decisions(repository)} == {"edge"}
    # When they come up again in the same hour, they go on waiting
    waiting = []
    until(lambda: waiting or waiting.extend(filter(None, [window(repository, now=20.0, **limits)])))
    assert (waiting[0].assigned, waiting[0].deferred) == (0, 2)
    # When the next hour begins, they are drawn
    recorded = []
    until(lambda: recorded or recorded.extend(filter(None, [window(repository, now=3600.0, **limits)])))
    assert (recorded[0].assigned, recorded[0].deferred) == (2, 0)
    assert rows(
        repository, "SELECT period, reserved FROM budget WHERE id = 'deployment:default' ORDER BY period"
    ) == [("0", 27_000), ("3600", 18_000)]


@pytest.mark.parametrize("resting", [frozenset(), frozenset({"edge"})])
def test_what_the_ledger_refuses_falls_back_to_the_edge_unless_that_is_paused(repository, tmp_path, resting):
    # Given a second leader that reserved the money while this one decided
    batch_id = submit(repository, tmp_path, ["a 10"], budget=70_000)

    class Late:
        def open_window(self, **options):
            work = repository.open_window(**options)
            with repository.engine.begin() as connection:
                connection.execute(
                    text("UPDATE budget SET reserved = reserved + 10000 WHERE id = :id"),
                    {"id": f"batch:{batch_id}"},
                )
            return work

        def record_window(self, plan):
            return repository.record_window(plan)

        def resting_tiers(self):
            return resting

    # When the window is recorded
    recorded = window(Late())
    if resting:
        # Then the job waits for money
        assert (recorded.assigned, recorded.deferred) == (0, 1)
        assert rows(repository, "SELECT defer_reason FROM job") == [("budget",)]
        return
    # Then the guard refuses the cloud and grants the edge, with the prediction it was chosen by
    assert (recorded.assigned, recorded.fallback) == (1, 1)
    assert decisions(repository) == [("edge", "budget_guard", 0.1, 0.5)]


def asking(repository, tmp_path, *tiers):
    """Submit lines that ask for these tiers, None = any."""
    path = tmp_path / "asking.jsonl"
    lines = [{"prompt": f"p{line} 90"} | ({"tier": tier} if tier else {}) for line, tier in enumerate(tiers)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    submit_file(repository, path, tiers=TIERS, settings=Settings(), budget_micro_usd=None)


def limited(**limits):
    profiles = {name: replace(TIERS[name], max_backlog=limits.get(name)) for name in TIERS.profiles}
    return replace(TIERS, profiles=profiles)


def drawn_free(repository):
    return rows(
        repository,
        "SELECT count(*) FROM assignment a JOIN job j ON j.id = a.job_id WHERE j.tier IS NULL",
    )[0][0]


@pytest.mark.parametrize("is_paused", [True, False])
def test_jobs_that_ask_for_a_tier_that_takes_none_starve_no_job_behind_them(repository, tmp_path, is_paused):
    # Given twenty lines that ask for a paused or a full cloud before three others, and room for four a window
    tiers = limited(edge=4, cloud=1)
    asking(repository, tmp_path, *["cloud"] * 20, None, None, None)
    if is_paused:
        repository.pause(Paused.TIER, "cloud", who="ann@desk", reason="")
    else:
        run_window(repository, ByNumber(), tiers=tiers, settings=Settings(), term=None)
        assert rows(repository, "SELECT count(*) FROM assignment WHERE tier = 'cloud'") == [(1,)]
    # When one window is decided
    recorded = run_window(repository, ByNumber(), tiers=tiers, settings=Settings(), term=None)
    # Then the others are drawn, and none of the twenty has used a place
    assert (recorded.assigned, recorded.deferred) == (3, 0)
    assert drawn_free(repository) == 3
    assert check_invariants(repository.engine) == []


def test_no_shadow_goes_to_a_paused_tier(repository, tmp_path):
    # Given a paused cloud, and both tiers asked to draw every job
    submit(repository, tmp_path, ["a 90", "b 10"])
    repository.pause(Paused.TIER, "cloud", who="ann@desk", reason="")
    # When a window is decided
    window(repository, shadow_share=1.0, shadow_budget_micro_usd=10_000_000)
    # Then both are drawn on the edge, and no money goes to the cloud
    assert rows(repository, "SELECT tier, count(*) FROM assignment GROUP BY tier") == [("edge", 2)]
    assert rows(repository, "SELECT count(*) FROM job WHERE shadow_of IS NOT NULL") == [(0,)]


# --- the loop --------------------------------------------------------------------------------------------


def test_a_whole_batch_goes_through_windows_within_its_budget(repository, tmp_path):
    # Given 60 jobs in windows of 16 and money for some cloud pictures
    budget = 60 * 9000 + 10 * 56_000
    batch_id = submit(repository, tmp_path, [f"prompt {i}" for i in range(60)], budget=budget)
    worker = FakeWorker(repository, expected=60)
    # When a scheduler runs until all are done
    with Running(make_scheduler(repository, worker, window_jobs=16, microbatch_jobs=4)):
        assert worker.done.wait(DEADLINE)
    # Then every job has one outcome, both tiers were used, and the money adds up
    assert rows(repository, "SELECT state, count(*) FROM outcome GROUP BY state") == [("succeeded", 60)]
    assert worker.tiers["cloud"] > 0
    ((limit, reserved, spent),) = rows(
        repository, "SELECT lim, reserved, spent FROM budget WHERE id = :id", id=f"batch:{batch_id}"
    )
    assert (limit, reserved) == (budget, 0)
    assert spent == worker.tiers["edge"] * 9000 + worker.tiers["cloud"] * 65_000 <= budget
    # And the leader has resigned: the next one need not wait
    assert repository.elect(holder="next", ttl_seconds=15) == 2


def test_a_share_of_the_jobs_is_drawn_by_both_tiers_from_money_of_its_own(repository, tmp_path):
    # Given 40 jobs with a budget, half of which both tiers shall draw
    budget = 40 * 9000 + 10 * 56_000
    batch_id = submit(repository, tmp_path, [f"prompt {i} {i}" for i in range(40)], budget=budget)
    ids = [job_id for (job_id,) in rows(repository, "SELECT id FROM job")]
    drawn = {job_id for job_id in ids if is_drawn(job_id, share=0.5)}
    worker = FakeWorker(repository, expected=40 + len(drawn))
    # When a scheduler runs until all are done
    shadows = {"shadow_share": 0.5, "shadow_budget_micro_usd": 10_000_000}
    with Running(make_scheduler(repository, worker, window_jobs=16, microbatch_jobs=4, **shadows)):
        assert worker.done.wait(DEADLINE)
        until(lambda: repository.shadow_spending(batch_id).unfinished == 0)
    # Then exactly the drawn jobs have a pair, one picture of each tier
    pairs = repository.shadow_pairs(batch_id=batch_id)
    assert {pair.job_id for pair in pairs} == drawn
    assert all(set(pair.sides) == {"edge", "cloud"} and pair.propensity == 0.5 for pair in pairs)
    # And the batch paid for its own 40 pictures only
    status = batch_status(repository.engine, batch_id)
    assert status.spent_micro_usd == status.by_tier["edge"] * 9000 + status.by_tier["cloud"] * 65_000
    assert status.spent_micro_usd <= budget
    assert check_invariants(repository.engine) == []


@pytest.mark.parametrize(("prs", "warned"), [(0.9, True), (0.5, False)])
def test_the_scheduler_warns_when_predictions_drift_from_pictures(repository, tmp_path, prs, warned):
    # Given sixty pairs of equal pictures, whose measured PRS is 1/2, and a predictor that said something else
    class Stubborn:
        name, version = "stubborn", "1"
        yardstick = Yardstick(weights={"detail": 1.0}, spans={"detail": 0.1})

        def predict(self, prompts):
            return [Prediction(prs=prs)] * len(prompts)

    submit(repository, tmp_path, [f"{i} of {i * i} things" for i in range(60)])
    window(repository, Stubborn(), shadow_share=1.0, shadow_budget_micro_usd=10_000_000)
    worker = FakeWorker(repository)
    for microbatch in repository.mark_sent(limits={"edge": 100, "cloud": 100}):
        worker(microbatch, TIERS[microbatch.tier])
    # When the scheduler looks
    with capture_logs() as logs:
        drift = look_for_drift(repository, Stubborn(), tiers=TIERS, settings=Settings())
    # Then it warns if they differ, and says what to type
    assert (drift.pairs, drift.alarm) == (60, warned)
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["drift_alarm"] * warned


def test_without_pairs_there_is_no_drift(repository):
    assert look_for_drift(repository, Random(), tiers=TIERS, settings=Settings()) is None


def test_jobs_that_come_while_it_runs_are_taken_up(repository, tmp_path):
    worker = FakeWorker(repository, expected=3)
    with Running(make_scheduler(repository, worker)) as running:
        until(lambda: running.scheduler.leads)
        submit(repository, tmp_path, ["a", "b", "c"])
        assert worker.done.wait(DEADLINE)


@SQLITE
def test_of_two_schedulers_one_leads_and_the_other_takes_over(repository, tmp_path):
    # Given a leader
    first = make_scheduler(repository, FakeWorker(repository), holder="first")
    worker = FakeWorker(repository, expected=4)
    second = make_scheduler(repository, worker, holder="second")
    with Running(first) as leading:
        until(lambda: first.leads)
        with Running(second):
            # When a batch comes, the leader alone handles it
            submit(repository, tmp_path, ["a", "b"])
            until(lambda: rows(repository, "SELECT count(*) FROM outcome") == [(2,)])
            assert (first.leads, second.leads) == (True, False)
            assert not worker.tiers
            # When the leader stops, the other goes on in a new term
            leading.end()
            submit(repository, tmp_path, ["c", "d", "e", "f"], name="more.txt")
            assert worker.done.wait(DEADLINE)
            assert second.leads
    assert rows(repository, "SELECT DISTINCT leader_term FROM decision_window ORDER BY 1") == [(1,), (2,)]


@SQLITE
@pytest.mark.parametrize("leads", [True, False])
def test_it_stops_at_once(repository, leads):
    # Given a scheduler that leads, or one that waits to
    if not leads:
        repository.elect(holder="other", ttl_seconds=15)
    took = []
    for _ in range(3):
        scheduler = make_scheduler(repository, FakeWorker(repository), window_seconds=30.0)
        looked = threading.Event()
        scheduler._repository = Spy(repository, looked)
        running = Running(scheduler)
        with running:
            assert looked.wait(DEADLINE)
            # When it is stopped
            begun = time.monotonic()
            running.end()
            took.append(time.monotonic() - begun)
        assert not scheduler.leads
    # Then it ends at once: 0.2 s is the aim, and a machine that stood still for a while did not each time
    assert min(took) < 1.0


class Spy:
    """The real repository; tells when a scheduler has tried to lead."""

    def __init__(self, repository, looked):
        self._repository = repository
        self._looked = looked

    def elect(self, **options):
        term = self._repository.elect(**options)
        self._looked.set()
        return term

    def __getattr__(self, name):
        return getattr(self._repository, name)


@SQLITE
def test_a_database_that_comes_back_is_waited_for(repository, tmp_path, monkeypatch):
    # Given a database that does not answer the first look of each kind
    monkeypatch.setattr("scheduler.service.RETRY_SECONDS", 0.01)
    failed = Counter()

    class Shaky:
        def __getattr__(self, name):
            verb = getattr(repository, name)

            def shaky(*arguments, **options):
                if failed[name] < 1:
                    failed[name] += 1
                    raise ServiceUnavailable("the database does not answer")
                return verb(*arguments, **options)

            return shaky

    submit(repository, tmp_path, ["a", "b"])
    worker = FakeWorker(repository, expected=2)
    # When a scheduler runs
    with Running(make_scheduler(Shaky(), worker)):
        # Then the work is done all the same
        assert worker.done.wait(DEADLINE)
    assert {"elect", "open_window", "record_window", "mark_sent", "sweep"} <= set(failed)


@SQLITE
def test_a_database_that_was_away_condemns_nobody(repository, monkeypatch):
    # Given a database that does not answer the third sweep, and a clock that goes on by sweeps only
    monkeypatch.setattr("scheduler.service.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("scheduler.service.SWEEP_SECONDS", 0.01)
    sweeps, now = [], [0.0]

    class Away:
        def sweep(self, *, innocent, **options):
            sweeps.append(innocent)
            now[0] += 0.3
            if len(sweeps) == 3:
                raise ServiceUnavailable("the database does not answer")
            return repository.sweep(innocent=innocent, **options)

        def __getattr__(self, name):
            return getattr(repository, name)

    # When it is back
    scheduler = make_scheduler(Away(), FakeWorker(repository), clock=lambda: now[0], lease_seconds=1.0)
    with Running(scheduler):
        until(lambda: len(sweeps) > 6 and not sweeps[-1])
    # Then claims that end within a lease count no death, since nobody could renew them; later ones do
    assert sweeps[:3] == [False, False, False]
    assert all(sweeps[3:6])


@SQLITE
def test_a_leader_that_was_replaced_goes_on_as_a_follower(repository, tmp_path):
    # Given a leader whose lease another one has taken
    scheduler = make_scheduler(repository, FakeWorker(repository))
    with Running(scheduler) as running:
        until(lambda: scheduler.leads)
        with repository.engine.begin() as connection:
            connection.execute(text("UPDATE leader SET holder = 'other', term = term + 1"))
        # When it closes its next window
        submit(repository, tmp_path, ["a"])
        # Then it decides nothing more
        until(lambda: not scheduler.leads)
        assert decisions(repository) == []
        assert running.thread.is_alive()


@SQLITE
@pytest.mark.parametrize("verb", ["waiting_jobs", "mark_sent"])
def test_an_error_it_cannot_answer_ends_it_and_gives_the_lease_up(repository, tmp_path, verb):
    # Given a defect in the loop or in the dispatcher's thread
    class Broken:
        def __getattr__(self, name):
            return self._fail if name == verb else getattr(repository, name)

        def _fail(self, **_):
            raise ZeroDivisionError

    running = Running(make_scheduler(Broken(), FakeWorker(repository)))
    # Then it ends with that error, and another one may lead at once
    with pytest.raises(ZeroDivisionError), running:
        running.thread.join(DEADLINE)
    until(lambda: repository.elect(holder="next", ttl_seconds=15) == 2)


@SQLITE
def test_a_silent_microbatch_is_sent_again(repository, tmp_path):
    # Given a queue that loses the first message
    worker = FakeWorker(repository, expected=1)
    lost = []

    def forgetful(microbatch, profile):
        if not lost:
            lost.append(microbatch)
            return
        worker(microbatch, profile)

    submit(repository, tmp_path, ["a"])
    # When the sweeper looks for silence of half a second
    with Running(make_scheduler(repository, forgetful, resend_seconds=0.5)):
        # Then the job is done all the same
        assert worker.done.wait(DEADLINE)
    assert lost


def test_a_sweep_passes_the_settings_on_and_returns_what_it_found(repository):
    seen = {}

    class Recording:
        def sweep(self, **options):
            seen.update(options)
            return repository.sweep(**options)

    report = sweep(Recording(), settings=Settings(resend_seconds=7, max_deaths=2))
    assert seen == {"resend_seconds": 7.0, "max_deaths": 2, "heartbeat_seconds": 5.0, "innocent": False}
    assert report == replace(report, resent=0)


@SQLITE
def test_a_full_window_closes_at_once_and_a_lone_job_waits_for_its_age(repository, tmp_path):
    # Given a leader whose windows hold three jobs and wait for ages
    worker = FakeWorker(repository, expected=3)
    scheduler = make_scheduler(repository, worker, window_seconds=600.0, window_jobs=3)
    with Running(scheduler):
        until(lambda: scheduler.leads)
        # When four jobs come
        submit(repository, tmp_path, ["a 10", "b 20", "c 60", "d 30"])
        # Then three are decided at once, and the fourth waits for company
        until(lambda: len(decisions(repository)) == 3)
        assert repository.waiting_jobs(limit=10) == 1
        # Until two more make its window full
        submit(repository, tmp_path, ["e 10", "f 20"], name="more.txt")
        until(lambda: len(decisions(repository)) == 6)


@SQLITE
def test_leases_that_end_with_the_database_count_no_death(repository, tmp_path, monkeypatch):
    # Given a claim whose lease ends while the database does not answer
    monkeypatch.setattr("scheduler.service.RETRY_SECONDS", 0.01)
    submit(repository, tmp_path, ["a"])
    away = threading.Event()
    claimed = threading.Event()
    worker = FakeWorker(repository, expected=1)
    microbatches = []

    def take(microbatch, _profile):
        if microbatches:
            worker(microbatch, _profile)
            return
        microbatches.append(microbatch.microbatch_id)
        away.set()
        repository.claim(microbatch.microbatch_id, tier=microbatch.tier, worker="gone", lease_seconds=0.3)
        claimed.set()

    class Away:
        def __getattr__(self, name):
            def verb(*arguments, **options):
                if away.is_set():
                    raise ServiceUnavailable("the database does not answer")
                return getattr(repository, name)(*arguments, **options)

            return verb

    # When it comes back after the lease has ended
    scheduler = make_scheduler(Away(), take, resend_seconds=0.5)
    with Running(scheduler):
        assert claimed.wait(DEADLINE)
        until(lambda: scheduler._innocent_until)  # it has asked in vain
        threading.Event().wait(0.6)
        away.clear()
        # Then the work is done, and nobody has died of it
        assert worker.done.wait(DEADLINE)
    ((deaths, fence),) = rows(repository, "SELECT max(deaths), max(fence) FROM microbatch")
    assert deaths == 0
    assert fence > 2
