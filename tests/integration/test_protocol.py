"""The verbs in any order, with everything that goes wrong, against a model in plain Python.

After each step the promises hold and the database is what the model says; at the end healthy workers and
windows bring everything to rest, each job has one outcome, and no money is held.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text

from db.audit import check_invariants
from db.reconciling import Period, reconcile
from db.repository import Repository
from db.session import reading
from routet2i.contracts import (
    Account,
    Assignment,
    Bought,
    BudgetPolicy,
    Claim,
    GenerationRequest,
    JobState,
    Microbatch,
    PreviewHead,
    PreviewLine,
    Purse,
    QueueLimits,
    Rejection,
    Scope,
    TierKind,
    WindowJob,
    WindowPlan,
    Withheld,
    new_id,
)
from routet2i.errors import Conflict, LeaseLost, QueueFull, RouteT2IError, UsageError
from scheduler.usage_export import Billed
from tests.protocol.model import FINAL, Batch, Call, Job, Model, Money

DAY_MS = 86_400_000
NOON_MS = 1_790_000_000_000  # names the periods of budgets
TIERS = ("edge", "cloud")
PRICES = {"edge": 9, "cloud": 65}
CLIENTS = ("ann", "bob", "carl")
MAX_DEATHS = 3
LEASE_SECONDS = 3_600.0  # ends when a rule says so

LIMITS = st.one_of(st.none(), st.integers(0, 900))


ANY = st.booleans()
WORKERS = st.sampled_from(["w1", "w2"])
ANSWERS = st.sampled_from(["picture", "bill", "silence", "refusal", "accepted"])
ACTIONS: dict[str, tuple[Callable[[Any], object], Callable[[Any, Any], object]]] = {
    "dispatch": (lambda m: True, lambda m, data: m.dispatch(data.draw(st.integers(1, 4)), data.draw(ANY))),
    "deliver": (lambda m: m.messages, lambda m, data: m.deliver(data, data.draw(WORKERS), False)),
    "poll": (
        lambda m: True,
        lambda m, data: m.poll(data.draw(st.sampled_from(TIERS)), data.draw(WORKERS), data.draw(ANY)),
    ),
    "duplicate": (lambda m: m.claims, lambda m, data: m.deliver_what_is_claimed(data)),
    "die": (lambda m: True, lambda m, data: [m.poll("cloud", "w1", True) for _ in range(2)]),
    "record": (
        lambda m: m.claims,
        lambda m, data: m.record(data, data.draw(st.integers(0, 2)), data.draw(ANY), data.draw(ANY), False),
    ),
    "finish": (lambda m: m.claims, lambda m, data: m.finish(data, True)),
    "release": (lambda m: m.claims, lambda m, data: m.hold(data, "release")),
    "expire": (lambda m: m.claims, lambda m, data: m.a_lease_ends(data)),
    "sweep": (lambda m: True, lambda m, data: m.sweep(data.draw(ANY))),
    "cancel": (lambda m: m.model.jobs, lambda m, data: m.cancel_job(data)),
    "old plan": (lambda m: m.plans, lambda m, data: m.record_an_old_plan(data, data.draw(ANY))),
    "window": (
        lambda m: True,
        lambda m, data: m.window(
            data.draw(st.integers(2, 8)), data.draw(st.integers(1, 4)), data.draw(ANY), False, data
        ),
    ),
    "decide": (
        lambda m: True,
        lambda m, data: m.decide_and_wait(8, data.draw(st.integers(1, 4)), data.draw(ANY), data),
    ),
    "lead": (lambda m: True, lambda m, data: m.elect(data.draw(st.sampled_from("ab")))),
    "depose": (lambda m: m.model.leader, lambda m, data: m.the_leaders_lease_ends()),
    "buy": (lambda m: m.claims, lambda m, data: m.buy(data, data.draw(ANY))),
    "answer": (
        lambda m: m.model.calls,
        lambda m, data: m.answer(data, data.draw(ANSWERS), data.draw(st.integers(0, 80))),
    ),
    "reconcile": (lambda m: m.model.calls, lambda m, data: m.reconcile(data, data.draw(ANY))),
    "budget": (
        lambda m: True,
        lambda m, data: m.set_budget(Scope.DEPLOYMENT, "ann", "day", data.draw(LIMITS)),
    ),
}


class Protocol(RuleBasedStateMachine):
    def __init__(self, make_engine: Callable[[], Engine], make_shop: Callable[[Repository], Any]) -> None:
        super().__init__()
        self.engine = make_engine()
        self.repository = Repository(self.engine)
        self.shop = make_shop(self.repository)
        self.model = Model()
        self.claims: list[Claim] = []  # old ones too: zombies go on writing
        self.plans: list[WindowPlan] = []
        self.messages: list[tuple[str, str]] = []  # (microbatch, tier), never taken out: each may come twice
        self.now_ms = NOON_MS
        self.keys = 0

    # intake

    @initialize(jobs=st.integers(2, 6), size=st.integers(1, 4), data=st.data())
    def begin(self, jobs, size, data):
        self.submit("ann", jobs, None, False, 0, data)
        self.window(8, size, False, False, data)
        self.poll("cloud", "w1", False)

    @rule(
        client=st.sampled_from(CLIENTS),
        jobs=st.integers(1, 5),
        budget=LIMITS,
        previewed=st.booleans(),
        priority=st.integers(0, 2),
        data=st.data(),
    )
    def submit(self, client, jobs, budget, previewed, priority, data):
        batch = self.open(client, jobs, budget, previewed, None)
        self.add(batch, jobs, priority, False, data)
        self.close(batch, False)

    @rule(client=st.sampled_from(CLIENTS), jobs=st.integers(1, 5), budget=LIMITS, room=st.integers(0, 40))
    def open_at_the_door(self, client, jobs, budget, room):
        self.open(client, jobs, budget, False, QueueLimits(jobs=room, client_jobs=room // 2 or None))

    def open(self, client, jobs, budget, previewed, limits):
        preview = None
        lines = []
        if previewed:  # it promises the edge to odd lines and the cloud to even ones
            lines = [self._promise(line) for line in range(1, jobs + 1)]
            head = PreviewHead(
                file_sha256="f",
                fmt="jsonl",
                predictor_name="constant",
                predictor_version="1",
                budget_micro_usd=budget,
                jobs=jobs,
                micro_usd=sum(line.micro_usd for line in lines),
            )
            preview = self.repository.add_preview(head, lines)
        self.keys += 1
        asked = {
            "client": client,
            "idem_key": f"key-{self.keys}",
            "body_sha256": "b",
            "name": "n",
            "budget_micro_usd": budget,
            "preview_id": preview,
            "jobs": jobs,
            "limits": limits,
        }
        if limits is not None:
            queues = ((limits.jobs, None), (limits.client_jobs, client))
            if any(limit is not None and jobs > limit for limit, _ in queues):
                with pytest.raises(UsageError):
                    self.repository.open_batch(**asked)
                return None
            if any(limit is not None and self.model.queued(whose) + jobs > limit for limit, whose in queues):
                with pytest.raises(QueueFull):
                    self.repository.open_batch(**asked)
                return None
        opened = self.repository.open_batch(**asked)
        assert opened.created
        # An uncertain commit: the same again, when there is no room any more, and another body
        again = self.repository.open_batch(**(asked | {"limits": QueueLimits(jobs=jobs, client_jobs=None)}))
        assert (again.batch_id, again.created) == (opened.batch_id, False)
        with pytest.raises(Conflict):
            self.repository.open_batch(**(asked | {"body_sha256": "other"}))
        self.model.batches[opened.batch_id] = Batch(client, "b", announced=jobs)
        self.model.accounts[self.model.own(opened.batch_id)] = Money(budget)
        return opened.batch_id

    @staticmethod
    def _promise(line: int) -> PreviewLine:
        tier = TIERS[(line + 1) % 2]
        scores = {tier: {"detail": 0.5}}
        return PreviewLine(
            line_no=line,
            tier=tier,
            reason="tie",
            prs=0.3,
            threshold=0.4,
            micro_usd=PRICES[tier],
            scores=scores,
        )

    def _ingesting(self) -> list[str]:
        return [id_ for id_, one in self.model.batches.items() if one.state == "ingesting"]

    @precondition(lambda self: self._ingesting())
    @rule(data=st.data(), jobs=st.integers(1, 4), priority=st.integers(0, 2), twice=st.booleans())
    def add_some(self, data, jobs, priority, twice):
        self.add(data.draw(st.sampled_from(self._ingesting())), jobs, priority, twice, data)

    def add(self, batch, jobs, priority, with_bad, data):
        """Add a step of a file: good lines, perhaps a bad one and one whose custom id stood before."""
        known = self.model.batches[batch]
        first = known.cursor + 1
        shape = data.draw(st.sampled_from([(None, 1), (64, 1), (64, 2)])) if not first % 2 else (None, 1)
        requests = [self._request(line, f"c{line}", priority, shape) for line in range(first, first + jobs)]
        last = first + jobs - 1
        bad: list[Rejection] = []
        if with_bad:
            last += 2
            bad = [Rejection(line_no=last - 1, reason="r", remedy="m", raw_sha256="f")]
            requests.append(self._request(last, f"c{first}", priority, shape))
        for turn in range(2):  # the second time nothing happens: the lines were committed
            refused = self.repository.add_jobs(batch, requests, bad, cursor_line=last)
            assert len(refused) == (with_bad and not turn)
        with reading(self.engine) as connection:
            rows = connection.execute(
                text("SELECT id, seq, n FROM job WHERE batch_id = :id AND seq >= :first"),
                {"id": batch, "first": first},
            ).all()
        assert sorted(row.seq for row in rows) == list(range(first, first + jobs))
        self.model.jobs.update({row.id: Job(batch, row.n) for row in rows})
        known.cursor = last
        known.rejected += 2 * with_bad

    @staticmethod
    def _request(line, custom_id, priority, shape):
        side, n = shape
        return GenerationRequest(
            line_no=line,
            custom_id=custom_id,
            prompt=f"{line} red circles",
            seed=line,
            width=side,
            height=side,
            n=n,
            priority=priority,
            within_ms=1 if line % 3 == 0 else None,
        )

    @precondition(lambda self: self._ingesting())
    @rule(data=st.data(), twice=st.booleans())
    def close_some(self, data, twice):
        self.close(data.draw(st.sampled_from(self._ingesting())), twice)

    def close(self, batch, twice):
        if batch is None:
            return
        self.repository.close_intake(batch)
        if twice:
            self.repository.close_intake(batch)
        self.model.batches[batch].state = "open"

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data())
    def add_to_what_takes_no_more(self, data):
        batch = data.draw(st.sampled_from(list(self.model.batches)))
        known = self.model.batches[batch]
        if known.state != "ingesting":
            line = known.cursor + 1
            with pytest.raises(Conflict):
                self.repository.add_jobs(
                    batch, [self._request(line, f"c{line}", 0, (None, 1))], [], cursor_line=line
                )

    # leader

    @rule(holder=st.sampled_from("ab"))
    def elect(self, holder):
        term = self.repository.elect(holder=holder, ttl_seconds=3_600)
        if self.model.leads and self.model.leader[0] != holder:
            assert term is None
            return
        assert term == (self.model.leader[1] if self.model.leader else 0) + 1
        self.model.leader, self.model.leads = (holder, term), True

    @precondition(lambda self: self.model.leader)
    @rule()
    def the_leaders_lease_ends(self):
        self.shop.change("UPDATE leader SET expires_ms = 1")
        self.model.leads = False

    @precondition(lambda self: self.model.leader)
    @rule(holder=st.sampled_from("ab"), older=st.booleans(), resigns=st.booleans())
    def lead_on(self, holder, older, resigns):
        term = self.model.leader[1] - older
        is_it = (holder, term) == self.model.leader
        if resigns:
            self.repository.resign(holder=holder, term=term)
            time.sleep(0.002 if is_it else 0)  # its end lies in the past then
            self.model.leads = self.model.leads and not is_it
            return
        kept = self.repository.keep_leading(holder=holder, term=term, ttl_seconds=3_600)
        assert kept == (is_it and self.model.leads)

    # budgets

    @rule(
        scope=st.sampled_from([Scope.CLIENT, Scope.DEPLOYMENT]),
        client=st.sampled_from(CLIENTS),
        span=st.sampled_from(["day", "total"]),
        limit=LIMITS,
    )
    def set_budget(self, scope, client, span, limit):
        name = client if scope is Scope.CLIENT else "default"
        self._set(BudgetPolicy(scope=scope, name=name, span=span, limit_micro_usd=limit))

    @precondition(lambda self: self.model.batches)
    @rule(data=st.data(), limit=LIMITS)
    def set_the_budget_of_a_batch(self, data, limit):
        batch = data.draw(st.sampled_from(list(self.model.batches)))
        self._set(BudgetPolicy(scope=Scope.BATCH, name=batch, span="total", limit_micro_usd=limit))

    def _set(self, policy):
        set_ = lambda: self.repository.set_budget(policy, who="t", reason="", now_ms=self.now_ms)  # noqa: E731
        if self.model.set_budget(policy, self.now_ms):
            set_()
        else:
            with pytest.raises(UsageError):
                set_()

    @rule()
    def a_day_passes(self):
        self.now_ms += DAY_MS

    # windows

    @rule(
        limit=st.integers(1, 8),
        size=st.integers(1, 4),
        with_term=st.booleans(),
        defers=st.booleans(),
        data=st.data(),
    )
    def window(self, limit, size, with_term, defers, data):
        plan = self._plan(limit, size, with_term, defers, data)
        if plan is not None:
            self._record(plan, twice=False)

    @rule(limit=st.integers(1, 8), size=st.integers(1, 4), with_term=st.booleans(), data=st.data())
    def decide_and_wait(self, limit, size, with_term, data):
        """Another leader's plan: it is recorded later, when much has changed."""
        self._plan(limit, size, with_term, False, data)

    def _plan(self, limit, size, with_term, defers, data):
        self.shop.change("UPDATE job SET not_before_ms = 0 WHERE state = 'queued'")
        for job in self.model.jobs.values():
            job.deferred = False
        able = self.model.takeable()
        assert self.repository.waiting_jobs(limit=1_000) == len(able)
        work = self.repository.open_window(limit=limit, purse=Purse(now_ms=self.now_ms))
        if work is None:
            assert not able
            return None
        taken = [job.job_id for job in work.jobs]
        assert len(set(taken)) == len(taken) == min(limit, len(able))
        assert set(taken) <= able
        for batch in {job.batch_id for job in work.jobs}:
            assert work.chains[batch] == self.model.chain(batch, self.now_ms)
        for account, funds in work.accounts.items():
            money = self.model.accounts[account]
            assert (funds.limit, funds.reserved, funds.spent) == (money.limit, money.reserved, money.spent)
        kept, left_out = (work.jobs[:-1], work.jobs[-1:]) if defers else (work.jobs, ())
        groups: dict[tuple[str, str], list[WindowJob]] = {}
        for job in kept:
            tier = job.locked.tier if job.locked else data.draw(st.sampled_from(TIERS))
            groups.setdefault((job.batch_id, tier), []).append(job)
        plan = WindowPlan(
            window_id=new_id(),
            microbatches=tuple(
                self._microbatch(batch, tier, jobs[start : start + size])
                for (batch, tier), jobs in groups.items()
                for start in range(0, len(jobs), size)
            ),
            policy="test",
            predictor_name="constant",
            predictor_version="1",
            available_micro_usd=1_000,
            solve_us=7,
            deferred=tuple((job.job_id, "budget") for job in left_out),
            leader_term=self.model.leader[1] if with_term and self.model.leader else None,
            purse=Purse(now_ms=self.now_ms),
        )
        self.plans.append(plan)
        return plan

    def _microbatch(self, batch, tier, jobs):
        ways = {way: tuple(job.locked or self._assignment(job, way) for job in jobs) for way in TIERS}
        falls_back = tier == "cloud" and not any(job.locked for job in jobs)
        return Microbatch(
            microbatch_id=new_id(),
            batch_id=batch,
            tier=tier,
            kind=TierKind(tier),
            width=64,
            height=64,
            assignments=ways[tier],
            fallback=ways["edge"] if falls_back else (),
            fallback_tier="edge" if falls_back else None,
        )

    @staticmethod
    def _assignment(job, tier):
        return Assignment(
            job_id=job.job_id,
            tier=tier,
            reason="tie",
            prs=0.3,
            threshold=0.4,
            micro_usd=PRICES[tier] * job.n,
            scores={tier: {"detail": 0.5}},
        )

    @precondition(lambda self: self.plans)
    @rule(data=st.data(), under_a_new_id=st.booleans())
    def record_an_old_plan(self, data, under_a_new_id):
        plan = data.draw(st.sampled_from(self.plans))
        if under_a_new_id:
            again = tuple(replace(one, microbatch_id=new_id()) for one in plan.microbatches)
            plan = replace(plan, window_id=new_id(), microbatches=again)
        self._record(plan, twice=True)

    def _record(self, plan, *, twice):
        known = plan.window_id in self.model.windows
        if not known and plan.leader_term not in (None, self.model.leader and self.model.leader[1]):
            with pytest.raises(LeaseLost):
                self.repository.record_window(plan)
            return
        expected = self.model.record_window(plan, now_ms=plan.purse.now_ms)
        for _ in range(1 + twice):
            found = self.repository.record_window(plan)
            assert (found.assigned, found.deferred, found.fallback) == expected

    # messages and claims

    @rule(room=st.integers(1, 4), lost=st.booleans())
    def dispatch(self, room, lost):
        limits = dict.fromkeys(TIERS, room)
        sent = self.repository.mark_sent(limits=limits)
        assert {one.microbatch_id for one in sent} == self.model.mark_sent(limits)
        if not lost:
            self.messages += [(one.microbatch_id, one.tier) for one in sent]

    @precondition(lambda self: self.messages)
    @rule(data=st.data(), worker=st.sampled_from(["w1", "w2"]), wrong_tier=st.booleans())
    def deliver(self, data, worker, wrong_tier):
        microbatch, tier = data.draw(st.sampled_from(self.messages[::-1]))
        if wrong_tier:
            tier = TIERS[tier == "edge"]
        self._take(
            microbatch,
            tier,
            worker,
            self.repository.claim(
                microbatch, tier=tier, worker=f"{worker}-{tier}", lease_seconds=LEASE_SECONDS
            ),
        )

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def deliver_what_is_claimed(self, data):
        known = self._some_claim(data)
        found = self.repository.claim(
            known.microbatch_id, tier=known.tier, worker=f"w2-{known.tier}", lease_seconds=LEASE_SECONDS
        )
        self._take(known.microbatch_id, known.tier, "w2", found)

    @rule(tier=st.sampled_from(TIERS), worker=st.sampled_from(["w1", "w2"]), dies=st.booleans())
    def poll(self, tier, worker, dies):
        claim = self.repository.poll(tier=tier, worker=f"{worker}-{tier}", lease_seconds=LEASE_SECONDS)
        ready = self.model.oldest(tier, "ready")
        if not ready:
            assert claim is None
            return
        self._take(ready[0], tier, worker, claim)
        if dies:
            self._end_lease(claim)
            self.sweep(False)

    def _take(self, microbatch, tier, worker, claim):
        given = self.model.claim(microbatch, tier, f"{worker}-{tier}")
        if given is None:
            assert claim is None
            return
        assert claim.microbatch_id == microbatch
        assert claim.fence == self.model.microbatches[microbatch].fence
        assert {job.job_id for job in claim.jobs} == given
        assert all(job.micro_usd == self.model.jobs[job.job_id].price for job in claim.jobs)
        self.claims.append(claim)

    @rule(tier=st.sampled_from(TIERS), worker=st.sampled_from(["w1", "w2"]), drains=st.booleans())
    def beat(self, tier, worker, drains):
        name = f"{worker}-{tier}"
        self.repository.beat(
            worker=name, tier=tier, device="cpu", version="0", state="draining" if drains else "busy"
        )
        (self.model.draining.add if drains else self.model.draining.discard)(name)

    def _some_claim(self, data):
        return data.draw(st.sampled_from(self.claims[::-1]))  # the newest first: it shrinks to that

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), verb=st.sampled_from(["renew", "release", "asked"]))
    def hold(self, data, verb):
        claim = self._some_claim(data)
        if verb == "renew":
            assert self.repository.renew(claim) == (self.model.hold(claim) is not None)
        elif verb == "release":
            assert self.repository.release(claim, reason="drained") == self.model.release(claim)
        else:
            asked = {one for one in self.model.left(claim.microbatch_id) if self.model.jobs[one].asked}
            assert self.repository.cancelled(claim) == asked

    @precondition(lambda self: self.claims)
    @rule(
        data=st.data(),
        part=st.integers(0, 4),
        fails=st.booleans(),
        cheaper=st.booleans(),
        twice=st.booleans(),
    )
    def record(self, data, part, fails, cheaper, twice):
        claim = self._some_claim(data)
        outcomes = [self._outcome(job, fails, cheaper) for job in claim.jobs[: part or None]]
        expected = self.model.record(claim, outcomes)
        assert self.repository.record(claim, outcomes) == expected
        if twice and expected:
            assert self.repository.record(claim, outcomes)

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), twice=st.booleans())
    def finish(self, data, twice):
        self._finish(self._some_claim(data), twice)

    def _finish(self, claim, twice):
        expected = self.model.finish(claim)
        if expected is None:
            with pytest.raises(RouteT2IError, match="cannot be finished"):
                self.repository.finish(claim)
            return
        for _ in range(1 + twice):
            assert self.repository.finish(claim) == expected

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def work_to_the_end(self, data):
        self._work(self._some_claim(data))

    def _work(self, claim):
        asked = self.repository.cancelled(claim)
        outcomes = [self._outcome(job, False, False) for job in claim.jobs if job.job_id not in asked]
        assert self.repository.record(claim, outcomes) == self.model.record(claim, outcomes)
        self._finish(claim, False)

    def _outcome(self, job, fails, cheaper):
        """Return what a worker would report; a job with paid calls succeeds with bought pictures only."""
        calls = self.model.calls_of(job.job_id)
        if not calls:
            return self.shop.outcome(job, fails=fails, charged=job.micro_usd // 2 if cheaper else None)
        bought = {call.index for call in calls if call.has_image}
        return self.shop.outcome(job, fails=fails or len(bought) < job.n, charged=0)

    # paid calls

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), repeatable=st.booleans())
    def buy(self, data, repeatable):
        claim = self._some_claim(data)
        job = data.draw(st.sampled_from(claim.jobs))
        index = data.draw(st.integers(0, job.n - 1))
        most = self.model.most(self.model.jobs[job.job_id])
        wish = {"job_id": job.job_id, "index": index, "cost_max": most, "repeatable": repeatable}
        expected = self.model.intend(claim, job.job_id, index)
        if expected is None:
            with pytest.raises(RouteT2IError, match="is out already"):
                self.repository.intend(claim, **wish)
            return
        found = self.repository.intend(claim, **wish)
        if expected in [one.value for one in Withheld]:
            assert found is Withheld(expected)
        elif expected == "bought":
            assert found == Bought(sha256=self._sha256(job.job_id, index))
        elif expected == "resumed":
            assert found.resumed
            assert self.model.calls[found.call_id].job == job.job_id
        else:
            assert not found.resumed
            self.model.calls[found.call_id] = Call(
                job.job_id,
                index,
                claim.tier,
                self.model.microbatches[claim.microbatch_id].accounts,
                most,
                most if expected == "drawn" else 0,
                repeatable,
            )

    @staticmethod
    def _sha256(job_id, index):
        return sha256(f"{job_id}{index}".encode()).hexdigest()  # as `shop.outcome` names its pictures

    @precondition(lambda self: self.model.calls)
    @rule(data=st.data(), what=ANSWERS, cost=st.integers(0, 80))
    def answer(self, data, what, cost):
        """A provider answers a call, early, late, or again."""
        call_id = data.draw(st.sampled_from(list(self.model.calls)[::-1]))
        call = self.model.calls[call_id]
        if what == "accepted":
            self.repository.accept_call(call_id, remote_id=f"r-{call_id}")
            call.has_remote_id = True
        elif what == "silence":
            self.repository.doubt_call(call_id, error="timed out")
            self.model.doubt(call)
        elif what == "refusal":
            theirs = [one for one in self.claims if call.job in {job.job_id for job in one.jobs}]
            claim = data.draw(st.sampled_from(theirs[::-1]))
            self.repository.void_call(claim, call_id, error="refused")
            self.model.void(claim, call)
        else:
            sha = self._sha256(call.job, call.index) if what == "picture" else None
            self.repository.settle_call(call_id, cost=cost, image_sha256=sha)
            self.model.settle_call(call, cost=cost, has_image=sha is not None)

    @precondition(lambda self: self.model.calls)
    @rule(data=st.data(), is_complete=st.booleans())
    def reconcile(self, data, is_complete):
        named = data.draw(st.lists(st.sampled_from(list(self.model.calls)), unique=True, max_size=4))
        costs = {call_id: data.draw(st.integers(0, 80)) for call_id in named}
        bills = [
            Billed(line_no=line, idem_key=f"routet2i-{call_id}", remote_id=None, micro_usd=cost)
            for line, (call_id, cost) in enumerate(costs.items(), start=1)
        ]
        expected = self.model.reconcile(costs, is_complete=is_complete)
        always = Period(from_ms=0, to_ms=10 * NOON_MS)
        found = reconcile(self.engine, bills, complete=always if is_complete else None)
        assert (found.charged, found.voided, found.open) == expected
        assert found.unmatched == []

    @rule(tier=st.sampled_from(TIERS))
    def resume(self, tier):
        assert self.repository.paused_tiers().keys() == self.model.paused
        assert self.repository.resume_tier(tier, who="t", reason="") == (tier in self.model.paused)
        self.model.paused.discard(tier)
        time.sleep(0.002)  # what is billed from now on is billed later

    # silence

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def a_lease_ends(self, data):
        self._end_lease(self._some_claim(data))

    def _end_lease(self, claim):
        self.shop.expire(claim)
        one = self.model.microbatches[claim.microbatch_id]
        if one.state == "claimed":
            one.late = True

    @rule(late=st.booleans())
    def sweep(self, late):
        if late:
            self.shop.change("UPDATE microbatch SET sent_at_ms = 1 WHERE state = 'sent'")
            for one in self.model.microbatches.values():
                one.late = one.late or one.state == "sent"
        expected = self.model.sweep(max_deaths=MAX_DEATHS)
        report = self.shop.sweep(max_deaths=MAX_DEATHS)
        assert (report.resent, report.expired, report.split, report.poisoned, report.cancelled) == expected
        assert report.released == 0
        if report.split:
            with reading(self.engine) as connection:
                for row in connection.execute(
                    text(
                        "SELECT m.id, m.parent_id, j.id AS job FROM microbatch m"
                        " JOIN job j ON j.microbatch_id = m.id WHERE m.parent_id IS NOT NULL"
                    )
                ).all():
                    if row.id not in self.model.microbatches:
                        self.model.adopt(row.id, parent=row.parent_id, job=row.job)

    # cancellation

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def cancel_job(self, data):
        id_ = data.draw(st.sampled_from(list(self.model.jobs)))
        job = self.model.jobs[id_]
        if job.outcome is not None:
            before = JobState(job.outcome[0])
        elif job.state == "queued":
            before = JobState.QUEUED
        else:
            claimed = self.model.microbatches[job.microbatch].state == "claimed"
            before = JobState.RUNNING if claimed else JobState.ASSIGNED
        self.model.cancel([id_])
        assert self.repository.cancel_job(id_) is before

    @rule(data=st.data())
    def cancel_batch(self, data):
        self._cancel_batch(data.draw(st.sampled_from(list(self.model.batches))))

    def _cancel_batch(self, batch):
        ours = [id_ for id_, job in self.model.jobs.items() if job.batch == batch]
        self.model.batches[batch].state = "cancelled"
        at_once, running = self.model.cancel(ours)
        report = self.repository.cancel_batch(batch)
        assert (report.cancelled, report.running) == (at_once, running)
        assert report.already_final == len(ours) - at_once - running

    @rule(data=st.data(), names=st.lists(st.sampled_from(sorted(ACTIONS)), min_size=3, max_size=8))
    def several(self, data, names):
        """Many things after each other: by single steps hypothesis seldom comes far."""
        for name in names:
            needs, act = ACTIONS[name]
            if needs(self):
                act(self, data)
                self.every_promise_holds()
                self.the_database_is_what_the_model_says()

    # what must hold

    @invariant()
    def every_promise_holds(self):
        assert check_invariants(self.engine) == []

    @invariant()
    def the_database_is_what_the_model_says(self):
        model = self.model
        with reading(self.engine) as connection:
            read = lambda sql: connection.execute(text(sql)).all()  # noqa: E731
            assert {row[0]: tuple(row[1:]) for row in read(JOBS)} == {
                id_: (
                    one.batch,
                    one.state,
                    one.microbatch,
                    int(one.asked),
                    one.attempts,
                    *(one.outcome or (None, None, None, None)),
                )
                for id_, one in model.jobs.items()
            }
            assert {row[0]: tuple(row[1:]) for row in read(MICROBATCHES)} == {
                id_: (
                    one.tier,
                    one.batch,
                    one.state,
                    one.fence,
                    one.deaths,
                    one.deliveries,
                    one.held,
                    one.worker,
                )
                for id_, one in model.microbatches.items()
            }
            assert {Account(budget_id=row[0], period=row[1]): Money(*row[2:]) for row in read(MONEY)} == (
                model.accounts
            )
            assert {row[0]: tuple(row[1:]) for row in read(CALLS)} == {
                id_: (
                    one.job,
                    one.index,
                    one.tier,
                    one.state,
                    one.cost_max,
                    one.drawn,
                    one.cost,
                    one.overrun,
                    int(one.has_image),
                )
                for id_, one in model.calls.items()
            }
            assert {row[0]: tuple(row[1:]) for row in read(BATCHES)} == {
                id_: (
                    one.state,
                    one.cursor,
                    sum(job.batch == id_ for job in model.jobs.values()),
                    one.rejected,
                )
                for id_, one in model.batches.items()
            }
            assert [tuple(row) for row in read("SELECT holder, term FROM leader")] == (
                [model.leader] if model.leader else []
            )
            assert len(read("SELECT id FROM decision_window")) == len(model.windows)

    def teardown(self):
        """Bring everything to rest: leases end, then a healthy scheduler and healthy workers do the rest."""
        try:
            self._rest()
        finally:
            self.engine.dispose()

    def _rest(self):
        for batch in self._ingesting():
            self.close(batch, False)
        for claim in self.claims:
            self._end_lease(claim)
        for _ in range(200):
            self.sweep(True)
            self._record_all()
            for tier in TIERS:
                while ready := self.model.oldest(tier, "ready"):
                    claim = self.repository.poll(tier=tier, worker=f"w1-{tier}", lease_seconds=LEASE_SECONDS)
                    self._take(ready[0], tier, "w1", claim)
                    self._work(claim)
            if all(one.state in FINAL for one in self.model.microbatches.values()) and not self._can_pay():
                break
        for batch in self.model.batches:  # what no money is left for
            self._cancel_batch(batch)
        self.every_promise_holds()
        self.the_database_is_what_the_model_says()
        assert all(job.state == "done" for job in self.model.jobs.values())
        for left in (
            "job j WHERE NOT EXISTS (SELECT 1 FROM outcome o WHERE o.job_id = j.id)",
            "budget WHERE reserved <> 0",
            "microbatch WHERE state IN ('ready', 'sent', 'claimed')",
            "attempt WHERE ended_ms IS NULL",
            "call WHERE state = 'intent'",
            "waiting",
        ):
            assert self.shop.read(f"SELECT count(*) FROM {left}") == 0

    def _record_all(self):
        self.shop.change("UPDATE job SET not_before_ms = 0 WHERE state = 'queued'")
        for job in self.model.jobs.values():
            job.deferred = False
        work = self.repository.open_window(limit=1_000, purse=Purse(now_ms=self.now_ms))
        if work is None:
            self.assigned = 0
            return
        for batch in {job.batch_id for job in work.jobs}:
            self.model.chain(batch, self.now_ms)
        plan = WindowPlan(
            window_id=new_id(),
            microbatches=tuple(
                self._microbatch(job.batch_id, job.locked.tier if job.locked else "edge", [job])
                for job in work.jobs
            ),
            policy="test",
            predictor_name="constant",
            predictor_version="1",
            available_micro_usd=None,
            solve_us=1,
            purse=Purse(now_ms=self.now_ms),
        )
        self._record(plan, twice=False)
        self.assigned = self.model.windows[plan.window_id][0]

    def _can_pay(self):
        return self.assigned > 0


JOBS = """SELECT j.id, j.batch_id, j.state, j.microbatch_id, j.cancel_requested,
        (SELECT count(*) FROM attempt a WHERE a.job_id = j.id),
        o.state, o.micro_usd, o.microbatch_id, o.fence
    FROM job j LEFT JOIN outcome o ON o.job_id = j.id"""
MICROBATCHES = """SELECT id, tier, batch_id, state, fence, deaths, deliveries, reserved_left, worker_id
    FROM microbatch"""
CALLS = """SELECT id, job_id, idx, provider, state, cost_max, drawn, cost_actual, overrun,
        CASE WHEN image_sha256 IS NULL THEN 0 ELSE 1 END
    FROM call"""
MONEY = "SELECT id, period, lim, reserved, spent, overrun FROM budget"
BATCHES = "SELECT id, state, cursor_line, n_accepted, n_rejected FROM batch"


def run(dialect: str, examples: int, steps: int, make_database: Any, shop_of: type) -> None:
    run_state_machine_as_test(
        lambda: Protocol(lambda: make_database(dialect), shop_of),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(("dialect", "examples"), [("sqlite", 60), ("postgresql", 15)])
def test_the_verbs_do_in_any_order_what_the_model_does(dialect, examples, make_database, shop_of):
    run(dialect, examples, 40, make_database, shop_of)


@pytest.mark.long
@pytest.mark.timeout(7_200)
@pytest.mark.parametrize(("dialect", "examples"), [("sqlite", 1_500), ("postgresql", 300)])
def test_the_verbs_do_in_very_many_orders_what_the_model_does(dialect, examples, make_database, shop_of):
    run(dialect, examples, 80, make_database, shop_of)
