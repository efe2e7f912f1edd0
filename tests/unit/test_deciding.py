"""One window's decisions under nested budgets: nobody overspends, everybody is decided once, and says why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.contracts import (
    Account,
    Funds,
    GenerationRequest,
    Prediction,
    Waiting,
    WindowJob,
    WindowWork,
    Yardstick,
)
from routet2i.tiers import Tiers, packaged, read_tiers
from scheduler.allocation.market import Market
from scheduler.allocator import REASONS
from scheduler.deciding import Decision, decide_window
from scheduler.preview import plan
from scheduler.preview_draft import Draft

PAIR = read_tiers(packaged("pocket"))
PRS = st.one_of(st.sampled_from([0.0, 0.25, 0.4, 0.5, 0.75, 1.0]), st.floats(0, 1))  # with many ties
DEPLOYMENT = Account(budget_id="deployment:d", period="0")


def priced(edge: int, cloud: int) -> Tiers:
    profiles = {
        "edge": replace(PAIR["edge"], micro_usd_per_image=edge),
        "cloud": replace(PAIR["cloud"], micro_usd_per_image=cloud),
    }
    return replace(PAIR, profiles=profiles)


def batch_account(batch: str) -> Account:
    return Account(budget_id=f"batch:{batch}", period="total")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A window, what is predicted for it, and the prices."""

    work: WindowWork
    predictions: tuple[Prediction, ...]
    tiers: Tiers

    def decide(self, markets: Mapping[str, Market] | None = None) -> Decision:
        return decide_window(
            self.work, self.predictions, tiers=self.tiers, yardstick=None, markets=markets or {}
        )

    def members(self, account: Account) -> set[str]:
        return {batch for batch, chain in self.work.chains.items() if account in chain}

    def free(self, account: Account) -> int | None:
        funds = self.work.accounts[account]
        return None if funds.limit is None else max(0, funds.limit - funds.reserved - funds.spent)

    def paid(self, decision: Decision, account: Account) -> int:
        batches = {job.job_id: job.batch_id for job in self.work.jobs}
        members = self.members(account)
        return sum(a.micro_usd for a in decision.assignments if batches[a.job_id] in members)


def make(
    values: Mapping[str, Sequence[float]],
    *,
    limits: Mapping[Account, int | None],
    outer: Sequence[Account] = (),
    behind: int = 0,
    tiers: Tiers = PAIR,
    pictures: Sequence[int] = (),
) -> Case:
    """Batches with one job for each PRS, all drawing on their own account and on the outer ones."""
    jobs, predictions = [], []
    for batch, own in values.items():
        for k, prs in enumerate(own):
            n = pictures[len(jobs) % len(pictures)] if pictures else 1
            jobs.append(
                WindowJob(job_id=f"{batch}{k:03}", batch_id=batch, prompt="p", width=None, height=None, n=n)
            )
            predictions.append(Prediction(prs=prs))
    chains = {batch: (batch_account(batch), *outer) for batch in values}
    waiting = {
        batch: (
            Waiting(
                width=None,
                height=None,
                jobs=behind + sum(job.batch_id == batch for job in jobs),
                pictures=behind + sum(job.n for job in jobs if job.batch_id == batch),
            ),
        )
        for batch in values
    }
    accounts = {account for chain in chains.values() for account in chain}
    work = WindowWork(
        jobs=tuple(jobs),
        accounts={
            account: Funds(limit=limits.get(account), reserved=0, spent=0) for account in sorted(accounts)
        },
        chains=chains,
        waiting=waiting,
        now_ms=0,
    )
    return Case(work=work, predictions=tuple(predictions), tiers=tiers)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Up to three batches, with and without limits, and a deployment that may have one."""
    values = {name: draw(st.lists(PRS, min_size=1, max_size=8)) for name in "abc"[: draw(st.integers(1, 3))]}
    limit = st.one_of(st.none(), st.integers(0, 4000))
    limits = {batch_account(name): draw(limit) for name in values} | {DEPLOYMENT: draw(limit)}
    return make(
        values,
        limits=limits,
        outer=(DEPLOYMENT,) if draw(st.booleans()) else (),
        behind=draw(st.sampled_from([0, 0, 3, 50])),
        tiers=priced(draw(st.integers(0, 100)), draw(st.integers(0, 300))),
        pictures=draw(st.lists(st.integers(1, 4), min_size=1, max_size=5)),
    )


@given(case=cases())
@settings(deadline=None)
def test_no_account_pays_more_than_it_has(case: Case) -> None:
    decision = case.decide()
    for account in case.work.accounts:
        free = case.free(account)
        assert free is None or case.paid(decision, account) <= free


@given(case=cases())
@settings(deadline=None)
def test_every_job_is_assigned_or_deferred_exactly_once_and_says_why(case: Case) -> None:
    decision = case.decide()
    decided = [a.job_id for a in decision.assignments] + [job_id for job_id, _ in decision.deferred]
    assert sorted(decided) == sorted(job.job_id for job in case.work.jobs)
    assert {a.reason for a in decision.assignments} | {why for _, why in decision.deferred} <= set(REASONS)
    order = [job.job_id for job in case.work.jobs]
    assert [a.job_id for a in decision.assignments] == sorted(
        (a.job_id for a in decision.assignments), key=order.index
    )


@given(case=cases())
@settings(deadline=None)
def test_a_job_is_on_the_cloud_only_below_its_threshold_which_is_at_most_one_half(case: Case) -> None:
    edge, cloud = (case.tiers[name].micro_usd_per_image for name in ("edge", "cloud"))
    for a in case.decide().assignments:
        assert 0 <= a.threshold <= 0.5
        if cloud > edge:
            assert (a.tier == "cloud") == (a.prs < a.threshold)


@given(case=cases())
@settings(deadline=None)
def test_money_for_the_cheapest_tier_of_all_that_wait_is_kept(case: Case) -> None:
    # Given accounts that can pay the floor of all jobs, those behind the window included
    decision = case.decide()
    cheapest = min(case.tiers[name].micro_usd_per_image for name in ("edge", "cloud"))
    for account in case.work.accounts:
        free = case.free(account)
        members = case.members(account)
        waiting = sum(group.pictures for batch in members for group in case.work.waiting[batch])
        if free is None or free < cheapest * waiting:
            continue
        # Then what the window leaves pays those behind it
        own = sum(job.n for job in case.work.jobs if job.batch_id in members)
        assert free - case.paid(decision, account) >= cheapest * (waiting - own)


@given(case=cases(), random=st.randoms(use_true_random=False))
@settings(deadline=None)
def test_the_order_of_jobs_that_can_all_be_paid_changes_nothing(case: Case, random: object) -> None:
    decision = case.decide()
    if decision.deferred:
        return
    rows = list(range(len(case.work.jobs)))
    random.shuffle(rows)  # type: ignore[attr-defined]
    other = replace(
        case,
        work=replace(case.work, jobs=tuple(case.work.jobs[row] for row in rows)),
        predictions=tuple(case.predictions[row] for row in rows),
    ).decide()
    assert {a.job_id: a.tier for a in other.assignments} == {a.job_id: a.tier for a in decision.assignments}


@given(
    values=st.lists(PRS, min_size=1, max_size=12),
    pictures=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    spare=st.integers(0, 400),
)
@settings(deadline=None)
def test_a_batch_that_fits_into_one_window_gets_what_its_preview_said(
    values: list[float], pictures: list[int], spare: int
) -> None:
    # Given a batch and a budget above its floor
    tiers = priced(9, 65)
    ns = [pictures[k % len(pictures)] for k in range(len(values))]
    budget = 9 * sum(ns) + spare
    requests = [
        GenerationRequest(line_no=k + 1, custom_id=str(k), prompt="p", seed=0, n=n) for k, n in enumerate(ns)
    ]
    with Draft(tiers=tiers, yardstick=None) as draft:
        draft.add(requests, [Prediction(prs=one) for one in values])
        planned = plan(draft, budget=budget)
    # When it is decided in one window
    decision = make({"a": values}, limits={batch_account("a"): budget}, tiers=tiers, pictures=ns).decide()
    # Then split and money are those of the preview
    assert [a.tier for a in decision.assignments] == [tiers.routed[t] for t in planned.choice.tier.tolist()]
    assert sum(a.micro_usd for a in decision.assignments) == planned.preview.micro_usd


def test_the_scope_whose_money_is_short_is_named() -> None:
    # Given a batch without a limit in a deployment that can pay one upgrade of two
    case = make({"a": [0.1, 0.2]}, limits={DEPLOYMENT: 2 * 9_000 + 56_000}, outer=(DEPLOYMENT,))
    assert [(a.tier, a.reason) for a in case.decide().assignments] == [
        ("cloud", "predicted_better_on_cloud"),
        ("edge", "deployment_money_short"),
    ]
    # And one that cannot pay the second floor
    short = make({"a": [0.1, 0.2]}, limits={DEPLOYMENT: 17_999}, outer=(DEPLOYMENT,)).decide()
    assert short.deferred == (("a001", "deployment_budget"),)
    assert [a.tier for a in short.assignments] == ["edge"]
    # And a batch whose own money is short
    own = make({"a": [0.1, 0.9]}, limits={batch_account("a"): 18_000}).decide()
    assert [a.reason for a in own.assignments] == ["cloud_money_short", "predicted_better_on_edge"]
    assert own.available == 18_000


def test_floors_of_jobs_elsewhere_are_kept_as_those_behind_the_window_are() -> None:
    # Given a deployment that can pay six floors and one step up, and three jobs in other batches
    case = make({"a": [0.1] * 3}, limits={DEPLOYMENT: 6 * 9_000 + 56_000}, outer=(DEPLOYMENT,))
    other = Waiting(width=None, height=None, jobs=2, pictures=3)

    def bought(*elsewhere: Waiting) -> int:
        work = replace(case.work, elsewhere={DEPLOYMENT: elsewhere})
        return sum(a.tier == "cloud" for a in replace(case, work=work).decide().assignments)

    # Then what is kept for them is not spent here
    assert bought() == 1
    assert bought(other) == 1
    assert bought(other, Waiting(width=None, height=None, jobs=1, pictures=1)) == 0


def test_a_tier_between_the_pair_is_chosen_where_it_gains_most_for_its_money() -> None:
    # Given three tiers, the middle one nearly as good as the cloud
    mid = replace(PAIR["cloud"], name="mid", micro_usd_per_image=20_000)
    tiers = replace(PAIR, profiles={**PAIR.profiles, "mid": mid}, routed=("edge", "mid", "cloud"))
    scores = {name: {"clarity": q} for name, q in (("edge", 0.2), ("mid", 0.7), ("cloud", 0.75))}
    yardstick = Yardstick(weights={"clarity": 1.0}, spans={"clarity": 0.2})
    prs = 1 / (1 + np.exp(0.55 / 0.2))
    case = make({"a": [0.1] * 3}, limits={batch_account("a"): 3 * 9_000 + 2 * 11_000}, tiers=tiers)
    # When there is money for two steps to it
    decision = decide_window(
        case.work, [Prediction(prs=prs, scores=scores)] * 3, tiers=tiers, yardstick=yardstick, markets={}
    )
    # Then two jobs go there
    assert [(a.tier, a.reason) for a in decision.assignments] == [
        ("mid", "cloud_money_short"),
        ("mid", "cloud_money_short"),
        ("edge", "cloud_money_short"),
    ]


def test_windows_of_one_batch_spend_its_money_where_all_its_jobs_gain_most() -> None:
    # Given 2,000 jobs decided 100 at a time, and money to upgrade a fifth of them
    rng = np.random.default_rng(0)
    values = rng.beta(4, 5, 2_000)
    left = 2_000 * 9_000 + 400 * 56_000
    markets: Mapping[str, Market] = {}
    gain = 0.0
    for start in range(0, len(values), 100):
        part = values[start : start + 100].tolist()
        case = make({"a": part}, limits={batch_account("a"): left}, behind=len(values) - start - 100)
        decision = case.decide(markets)
        markets = decision.markets
        left -= sum(a.micro_usd for a in decision.assignments)
        gain += sum(0.5 - a.prs for a in decision.assignments if a.tier == "cloud")
    # Then no money is over, and hindsight would have gained hardly more
    best = float(np.sort(np.maximum(0.5 - values, 0))[::-1][:400].sum())
    assert 0 <= left < 56_000
    assert gain == pytest.approx(best, rel=0.01)
    assert gain <= best + 1e-9
