"""What the repository should do, in plain Python: jobs, microbatches, calls, accounts, batches, a leader.

No SQL and no clock: leases and messages are late when somebody says so. What only the database can choose
(ids, which jobs a window takes) it is told.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from routet2i.contracts import Account, BudgetPolicy, Claim, JobOutcome, Scope, WindowPlan
from routet2i.periods import TOTAL, period_of

FINAL = ("done", "split", "dead", "cancelled")


@dataclass
class Job:
    batch: str
    n: int
    state: str = "queued"  # queued, assigned, done
    microbatch: str | None = None
    price: int = 0
    asked: bool = False  # to cancel it, while it runs
    deferred: bool = False
    outcome: tuple[str, int, str | None, int | None] | None = None  # state, charge, microbatch, fence
    attempts: int = 0


@dataclass
class Microbatch:
    tier: str
    batch: str
    accounts: tuple[Account, ...]
    held: int
    state: str = "ready"
    fence: int = 0
    deaths: int = 0
    deliveries: int = 0
    worker: str | None = None
    late: bool = False  # its lease has ended, or its message is old


@dataclass
class Call:
    job: str
    index: int
    tier: str
    accounts: tuple[Account, ...]
    cost_max: int
    drawn: int
    repeatable: bool
    state: str = "intent"  # charged, unknown, void
    cost: int | None = None
    overrun: int = 0
    has_image: bool = False
    has_remote_id: bool = False


@dataclass
class Batch:
    client: str
    body: str
    state: str = "ingesting"
    cursor: int = 0
    rejected: int = 0
    announced: int = 0
    custom_ids: set[str] = field(default_factory=set)


@dataclass
class Money:
    limit: int | None
    reserved: int = 0
    spent: int = 0
    overrun: int = 0

    def lets(self, price: int) -> bool:
        return self.limit is None or self.reserved + self.spent + price <= self.limit


@dataclass
class Model:
    batches: dict[str, Batch] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    microbatches: dict[str, Microbatch] = field(default_factory=dict)
    accounts: dict[Account, Money] = field(default_factory=dict)
    policies: dict[str, BudgetPolicy] = field(default_factory=dict)  # budget id -> the latest
    windows: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # assigned, deferred, fallback
    leader: tuple[str, int] | None = None
    leads: bool = False  # its lease runs
    draining: set[str] = field(default_factory=set)  # workers
    calls: dict[str, Call] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)  # tiers

    # money

    def chain(self, batch: str, now_ms: int) -> tuple[Account, ...]:
        """Open what a batch draws on in this period, and return it."""
        names = {Scope.CLIENT: self.batches[batch].client, Scope.DEPLOYMENT: "default"}
        outer = [
            policy
            for scope, name in names.items()
            for policy in self.policies.values()
            if policy.scope is scope and policy.name == name and policy.limit_micro_usd is not None
        ]
        return (self.own(batch), *(self.opened(policy, now_ms) for policy in outer))

    @staticmethod
    def own(batch: str) -> Account:
        return Account(budget_id=f"batch:{batch}", period=TOTAL)

    def opened(self, policy: BudgetPolicy, now_ms: int) -> Account:
        account = Account(budget_id=policy.budget_id, period=period_of(policy.span, now_ms=now_ms).name)
        if account not in self.accounts:
            later = any(
                one.budget_id == account.budget_id and one.period > account.period for one in self.accounts
            )
            self.accounts[account] = Money(0 if later else policy.limit_micro_usd)
        return account

    def set_budget(self, policy: BudgetPolicy, now_ms: int) -> bool:
        """Return whether the limit may be set; if not, nothing changes."""
        kept = {one: replace(money) for one, money in self.accounts.items()}
        before = self.policies.get(policy.budget_id)
        if before is not None and before.limit_micro_usd is not None:
            self.opened(before, now_ms)
        account = Account(budget_id=policy.budget_id, period=period_of(policy.span, now_ms=now_ms).name)
        limit = policy.limit_micro_usd
        if account in self.accounts:
            money = self.accounts[account]
            if limit is not None and money.reserved + money.spent > limit:
                self.accounts = kept
                return False
            money.limit = limit
        elif limit is not None:
            self.accounts[account] = Money(limit)
        self.policies[policy.budget_id] = policy
        return True

    def settle(self, microbatch: Microbatch, *, freed: int, charged: int) -> None:
        microbatch.held -= freed
        for account in microbatch.accounts:
            self.accounts[account].reserved -= freed
            self.accounts[account].spent += charged

    # paid calls

    def calls_of(self, job: str) -> list[Call]:
        return [one for one in self.calls.values() if one.job == job]

    def drawn(self, job: str) -> int:
        return sum(one.drawn for one in self.calls_of(job))

    @staticmethod
    def most(job: Job) -> int:
        """Return what one picture of a job may cost."""
        return job.price // job.n

    def intend(self, claim: Claim, id_: str, index: int) -> str | None:
        """Return what the worker is told; None where it is refused, for such a call is out already."""
        late = self.microbatches[claim.microbatch_id].late
        one = self.hold(claim)
        if one is None:
            return "stale"
        job = self.jobs[id_]
        if (job.state, job.microbatch, job.asked) != ("assigned", claim.microbatch_id, False):
            return "cancelled"
        earlier = [call for call in self.calls_of(id_) if call.index == index]
        if any(call.has_image for call in earlier):
            return "bought"
        if out := [call for call in earlier if call.state == "intent"]:
            if out[0].repeatable or out[0].has_remote_id:
                return "resumed"
            one.late = late
            return None
        if claim.tier in self.paused:
            return "paused"
        price = self.most(job)
        if sum(call.state != "void" for call in earlier) >= 2:
            return "unknown_charge"
        if not any(call.drawn for call in earlier):
            one.held -= price
            return "drawn"
        if not all(self.accounts[account].lets(price) for account in one.accounts):
            return "unknown_charge"
        self._move(one.accounts, reserved=price)
        return "granted"

    def _move(
        self, accounts: Iterable[Account], *, reserved: int = 0, spent: int = 0, overrun: int = 0
    ) -> None:
        for account in accounts:
            self.accounts[account].reserved += reserved
            self.accounts[account].spent += spent
            self.accounts[account].overrun += overrun

    def settle_call(self, call: Call, *, cost: int, has_image: bool) -> None:
        if call.state == "charged":
            call.has_image = call.has_image or has_image
            return
        permitted = 0 if call.state == "void" else call.cost_max
        paid = min(cost, permitted)
        if call.state == "intent":
            self._move(call.accounts, reserved=-permitted, spent=paid)
        else:
            self._move(call.accounts, spent=paid - permitted)
        self._move(call.accounts, overrun=cost - paid)
        call.state, call.cost, call.overrun, call.has_image = "charged", cost, cost - paid, has_image
        if call.overrun:
            self.paused.add(call.tier)

    def doubt(self, call: Call) -> None:
        if call.state == "intent":
            call.state = "unknown"
            self._move(call.accounts, reserved=-call.cost_max, spent=call.cost_max)

    def void(self, claim: Claim, call: Call) -> None:
        one = self.hold(claim)
        if call.state == "unknown":
            self.void_unknown(call)
        elif call.state == "intent" and one is not None:
            one.held += call.drawn
            self._move(call.accounts, reserved=call.drawn - call.cost_max)
            call.state, call.drawn = "void", 0

    def void_unknown(self, call: Call) -> None:
        call.state = "void"
        self._move(call.accounts, spent=-call.cost_max)

    def reconcile(self, bills: dict[str, int], *, is_complete: bool) -> tuple[int, int, int]:
        """Return how many calls were charged, made void, and are out."""
        charged = voided = out = 0
        for id_, cost in bills.items():
            call = self.calls[id_]
            if call.state == "intent":
                out += 1
            elif call.state != "charged":
                self.settle_call(call, cost=cost, has_image=False)
                charged += 1
        for id_, call in self.calls.items():
            if is_complete and call.state == "unknown" and id_ not in bills:
                self.void_unknown(call)
                voided += 1
        return charged, voided, out

    def _lose(self, microbatch: str) -> None:
        """Count as spent what a claim that ends has sent and nobody can ask for again."""
        for id_ in self.left(microbatch):
            for call in self.calls_of(id_):
                if not (call.repeatable or call.has_remote_id):
                    self.doubt(call)

    # windows

    def takeable(self) -> set[str]:
        return {
            id_
            for id_, job in self.jobs.items()
            if job.state == "queued" and not job.deferred and self.batches[job.batch].state == "open"
        }

    def queued(self, client: str | None) -> int:
        """Count what the door counts: what waits, and what files that are read have announced."""
        chosen = {id_ for id_, one in self.batches.items() if client in (None, one.client)}
        counted = sum(
            job.state == "queued" and job.batch in chosen and self.batches[job.batch].state != "cancelled"
            for job in self.jobs.values()
        )
        accepted = {id_: sum(job.batch == id_ for job in self.jobs.values()) for id_ in chosen}
        return counted + sum(
            max(0, self.batches[id_].announced - accepted[id_])
            for id_ in chosen
            if self.batches[id_].state == "ingesting"
        )

    def record_window(self, plan: WindowPlan, *, now_ms: int) -> tuple[int, int, int]:
        """Return jobs assigned, deferred, and on their fallback."""
        if plan.window_id in self.windows:
            return self.windows[plan.window_id]
        assigned = deferred = fallback = 0
        wanted = []
        for one in plan.microbatches:
            chosen = [a.job_id for a in one.assignments if self.jobs[a.job_id].state == "queued"]
            if self.batches[one.batch_id].state == "open" and chosen:
                wanted.append((one, chosen, self.chain(one.batch_id, now_ms)))
        refused = []
        for one, chosen, accounts in wanted:
            ways = [(one.tier, one.assignments)]
            if one.fallback:
                ways.append((one.fallback_tier or one.tier, one.fallback))
            for turn, (tier, assignments) in enumerate(ways):
                prices = {a.job_id: a.micro_usd for a in assignments if a.job_id in chosen}
                price = sum(prices.values())
                if not all(self.accounts[account].lets(price) for account in accounts):
                    continue
                for account in accounts:
                    self.accounts[account].reserved += price
                self.microbatches[one.microbatch_id] = Microbatch(tier, one.batch_id, accounts, price)
                for id_ in chosen:
                    job = self.jobs[id_]
                    job.state, job.microbatch, job.price = "assigned", one.microbatch_id, prices[id_]
                    job.deferred = False
                assigned += len(chosen)
                fallback += len(chosen) * turn
                break
            else:
                refused += chosen
        for id_ in [*refused, *(id_ for id_, _ in plan.deferred)]:
            if self.jobs[id_].state == "queued":
                self.jobs[id_].deferred = True
                deferred += 1
        self.windows[plan.window_id] = (assigned, deferred, fallback)
        return self.windows[plan.window_id]

    # microbatches

    def oldest(self, tier: str, state: str) -> list[str]:
        return sorted(id_ for id_, one in self.microbatches.items() if (one.tier, one.state) == (tier, state))

    def mark_sent(self, limits: dict[str, int]) -> set[str]:
        sent = set()
        for tier, limit in limits.items():
            room = max(0, limit - len(self.oldest(tier, "sent")))
            for id_ in self.oldest(tier, "ready")[:room]:
                one = self.microbatches[id_]
                one.state, one.late = "sent", False
                one.deliveries += 1
                sent.add(id_)
        return sent

    def left(self, microbatch: str) -> list[str]:
        return [
            id_ for id_, job in self.jobs.items() if job.microbatch == microbatch and job.state == "assigned"
        ]

    def claim(self, microbatch: str, tier: str, worker: str) -> set[str] | None:
        """Return the jobs that the worker gets; None = no claim."""
        one = self.microbatches[microbatch]
        if one.tier != tier or one.state not in ("ready", "sent"):
            return None
        one.state, one.worker, one.late = "claimed", worker, False
        one.fence += 1
        for id_ in (given := self.left(microbatch)):
            self.jobs[id_].attempts += 1
        return set(given)

    def hold(self, claim: Claim) -> Microbatch | None:
        one = self.microbatches[claim.microbatch_id]
        if (one.state, one.fence) != ("claimed", claim.fence):
            return None
        one.late = False
        return one

    def record(self, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
        one = self.hold(claim)
        if one is None:
            return all(
                (known := self.jobs[o.job_id].outcome) is not None
                and known[2:] == (claim.microbatch_id, claim.fence)
                for o in outcomes
            )
        for outcome in outcomes:
            self._close(
                outcome.job_id, claim.microbatch_id, outcome.state.value, outcome.micro_usd, claim.fence
            )
        return True

    def _close(self, id_: str, microbatch: str, state: str, charged: int, fence: int | None) -> None:
        job = self.jobs[id_]
        if (job.state, job.microbatch) != ("assigned", microbatch):
            return
        for call in self.calls_of(id_):
            self.doubt(call)
        costs = {"charged": lambda call: call.cost, "unknown": lambda call: call.cost_max}
        billed = sum(costs[call.state](call) for call in self.calls_of(id_) if call.state in costs)
        job.state, job.outcome = "done", (state, charged + billed, microbatch, fence)
        self.settle(self.microbatches[microbatch], freed=job.price - self.drawn(id_), charged=charged)

    def _cancel_asked(self, microbatch: str, fence: int) -> int:
        asked = [id_ for id_ in self.left(microbatch) if self.jobs[id_].asked]
        for id_ in asked:
            self._close(id_, microbatch, "cancelled", 0, fence)
        return len(asked)

    def finish(self, claim: Claim) -> bool | None:
        """Return None where it is refused, and nothing is changed: jobs have no outcome."""
        late = self.microbatches[claim.microbatch_id].late
        one = self.hold(claim)
        if one is None:
            found = self.microbatches[claim.microbatch_id]
            return (found.state, found.fence) == ("done", claim.fence)
        if not all(self.jobs[id_].asked for id_ in self.left(claim.microbatch_id)):
            one.late = late
            return None
        self._cancel_asked(claim.microbatch_id, claim.fence)
        one.state = "done"
        return True

    def release(self, claim: Claim) -> bool:
        one = self.hold(claim)
        if one is None:
            return False
        self._lose(claim.microbatch_id)
        self._cancel_asked(claim.microbatch_id, claim.fence)
        self._give_back(claim.microbatch_id)
        return True

    def _give_back(self, microbatch: str) -> None:
        one = self.microbatches[microbatch]
        if not self.left(microbatch):
            one.state = "done"
        else:
            one.state = "ready"
            one.fence += 1

    def sweep(self, *, max_deaths: int) -> tuple[int, int, int, int, int]:
        """Return resent, expired, split, poisoned, cancelled; children of a split are told by `adopt`."""
        late = [id_ for id_, one in self.microbatches.items() if one.late]
        resent = [id_ for id_ in late if self.microbatches[id_].state == "sent"]
        for id_ in resent:
            self.microbatches[id_].state = "ready"
        expired = [id_ for id_ in late if self.microbatches[id_].state == "claimed"]
        split = poisoned = cancelled = 0
        for id_ in expired:
            one = self.microbatches[id_]
            one.deaths += one.worker not in self.draining
            self._lose(id_)
            cancelled += self._cancel_asked(id_, one.fence)
            left = self.left(id_)
            if len(left) == 1 and one.deaths >= max_deaths:
                self._close(left[0], id_, "failed", 0, one.fence)
                one.state = "dead"
                poisoned += 1
            elif len(left) > 1 and one.deaths >= 2:
                one.state, one.held = "split", 0
                split += 1
            else:
                self._give_back(id_)
        for id_ in late:
            self.microbatches[id_].late = False
        return len(resent), len(expired), split, poisoned, cancelled

    def adopt(self, child: str, *, parent: str, job: str) -> None:
        """Take over a microbatch that the database has split off."""
        one = self.microbatches[parent]
        assert one.state == "split"
        assert self.jobs[job].microbatch == parent
        assert self.jobs[job].state == "assigned"
        self.microbatches[child] = Microbatch(
            one.tier, one.batch, one.accounts, self.jobs[job].price - self.drawn(job), deaths=one.deaths
        )
        self.jobs[job].microbatch = child

    # cancellation

    def cancel(self, ids: Iterable[str]) -> tuple[int, int]:
        """Return how many at once, how many are asked of their workers."""
        at_once = running = 0
        for id_ in ids:
            job = self.jobs[id_]
            if job.state == "done":
                continue
            if job.state == "queued":
                job.state, job.outcome = "done", ("cancelled", 0, None, None)
            elif self.microbatches[job.microbatch].state == "claimed":
                job.asked = True
                running += 1
                continue
            else:
                microbatch = job.microbatch
                self._close(id_, microbatch, "cancelled", 0, None)
                if not self.left(microbatch):
                    self.microbatches[microbatch].state = "cancelled"
            at_once += 1
        return at_once, running
