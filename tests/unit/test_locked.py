"""Locked jobs: each is taken at its price or deferred, within every account, and the others see the rest."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from routet2i.contracts import Account, Assignment, Funds, Waiting, WindowJob, WindowPlan, WindowWork
from routet2i.tiers import packaged, read_tiers
from scheduler.locked import take_locked

TIERS = read_tiers(packaged("pocket"))
DEPLOYMENT = Account(budget_id="deployment:default", period="total")
WAITS = {"batch": "budget", "deployment": "deployment_budget"}


def account(batch: str) -> Account:
    return Account(budget_id=f"batch:{batch}", period="total")


@st.composite
def windows(draw: st.DrawFn) -> WindowWork:
    """Up to twelve jobs of three batches, of which two are locked, under limits that may be tight or none."""
    limits = st.none() | st.integers(0, 600)
    batches = ("a", "b", "free")
    jobs = []
    for number in range(draw(st.integers(0, 12))):
        batch, n = draw(st.sampled_from(batches)), draw(st.integers(1, 3))
        job = WindowJob(job_id=f"j{number}", batch_id=batch, prompt="p", width=None, height=None, n=n)
        if batch != "free":
            choice = Assignment(
                job_id=job.job_id,
                tier=draw(st.sampled_from(("edge", "cloud", "gone"))),
                reason="predicted_better_on_cloud",
                prs=0.3,
                threshold=0.4,
                micro_usd=draw(st.integers(0, 200)),
            )
            job = replace(job, locked=choice)
        jobs.append(job)
    present = dict.fromkeys(job.batch_id for job in jobs)
    chains = {batch: (account(batch), DEPLOYMENT) for batch in present}
    named = {one for chain in chains.values() for one in chain}
    return WindowWork(
        jobs=tuple(jobs),
        accounts={one: Funds(limit=draw(limits), reserved=0, spent=0) for one in sorted(named)},
        chains=chains,
        waiting={},
        now_ms=0,
    )


@given(windows(), st.integers(1, 8))
def test_each_locked_job_is_taken_as_promised_or_deferred_and_no_account_is_exceeded(
    work: WindowWork, microbatch_jobs: int
) -> None:
    # When the locked jobs of a window are taken
    found = take_locked(work, tiers=TIERS, microbatch_jobs=microbatch_jobs)
    # Then each is exactly once taken, with its promise, or deferred
    promised = {job.job_id: job.locked for job in work.jobs if job.locked is not None}
    taken = {one.job_id: one for microbatch in found.microbatches for one in microbatch.assignments}
    deferred = dict(found.deferred)
    assert taken == {job_id: promised[job_id] for job_id in taken}
    assert sorted([*taken, *deferred]) == sorted(promised)
    assert sum(len(one.assignments) for one in found.microbatches) == len(taken)
    # And what waits waits for a tier that is gone, or for an account that has not its price left
    batch = {job.job_id: job.batch_id for job in work.jobs}
    for one, funds in work.accounts.items():
        spent = sum(a.micro_usd for job_id, a in taken.items() if one in work.chains[batch[job_id]])
        assert funds.limit is None or spent <= funds.limit
        for job_id, reason in deferred.items():
            choice = promised[job_id]
            assert choice is not None
            if reason == "tier_missing":
                assert choice.tier == "gone"
            elif one in work.chains[batch[job_id]] and reason == WAITS[one.scope]:
                assert funds.limit is not None
                assert choice.micro_usd > funds.limit - spent
    # And no microbatch has a cheaper tier to fall back to, or mixes batches or tiers
    for microbatch in found.microbatches:
        assert (microbatch.fallback, microbatch.fallback_tier) == ((), None)
        assert {batch[a.job_id] for a in microbatch.assignments} == {microbatch.batch_id}
        assert {a.tier for a in microbatch.assignments} == {microbatch.tier}


@given(windows())
def test_the_rest_has_the_free_jobs_and_what_the_locked_ones_leave(work: WindowWork) -> None:
    found = take_locked(work, tiers=TIERS, microbatch_jobs=4)
    rest = found.rest
    assert rest.jobs == tuple(job for job in work.jobs if job.locked is None)
    if rest.jobs == work.jobs:
        assert rest == work
        return
    assert set(rest.accounts) == {one for chain in rest.chains.values() for one in chain}
    if rest.jobs:
        held = sum(one.micro_usd for one in found.microbatches)
        assert rest.accounts[DEPLOYMENT].reserved == work.accounts[DEPLOYMENT].reserved + held
        assert rest.accounts[account("free")] == work.accounts[account("free")]


@given(windows())
def test_the_whole_plan_asks_for_the_locked_jobs_first_and_names_them(work: WindowWork) -> None:
    found = take_locked(work, tiers=TIERS, microbatch_jobs=4)
    plan = WindowPlan(
        window_id="w",
        microbatches=(),
        policy="p",
        predictor_name="n",
        predictor_version="v",
        available_micro_usd=5,
        solve_us=0,
    )
    whole = found.added_to(plan)
    assert whole.microbatches == found.microbatches
    assert whole.deferred == found.deferred
    assert whole.locked == {a.job_id for one in found.microbatches for a in one.assignments}
    assert whole.available_micro_usd == 5 + sum(one.micro_usd for one in found.microbatches)


def test_what_waits_behind_a_locked_batch_is_elsewhere_for_the_rest() -> None:
    # Given a locked batch with one of its five jobs in the window, beside a free one
    promise = Assignment(
        job_id="a", tier="edge", reason="predicted_better_on_edge", prs=0.6, threshold=0.4, micro_usd=9
    )
    jobs = tuple(
        WindowJob(job_id=name, batch_id=name, prompt="p", width=None, height=None, n=2, locked=locked)
        for name, locked in (("a", promise), ("b", None))
    )
    group = Waiting(width=None, height=None, jobs=5, pictures=10)
    third = Waiting(width=64, height=64, jobs=1, pictures=1)
    work = WindowWork(
        jobs=jobs,
        accounts={
            one: Funds(limit=100, reserved=0, spent=0) for one in (account("a"), account("b"), DEPLOYMENT)
        },
        chains={batch: (account(batch), DEPLOYMENT) for batch in "ab"},
        waiting={"a": (group,), "b": (group,)},
        now_ms=0,
        elsewhere={DEPLOYMENT: (third,)},
    )
    # When the locked job is taken
    rest = take_locked(work, tiers=TIERS, microbatch_jobs=1).rest
    # Then the deployment still has its other four to pay, and nobody else has
    left = Waiting(width=None, height=None, jobs=4, pictures=8)
    assert rest.elsewhere == {DEPLOYMENT: (third, left), account("b"): ()}
