"""A database in which every transaction of the repository has something to do.

Its ids are kept, so that tests can go back to it again and again. It knows no order of transactions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import orjson

from db import budgets
from db.api_batches import Order
from db.keys import Role, digest
from db.outbox import Delivery
from db.repository import Repository
from db.session import reading
from routet2i.contracts import (
    BatchEvent,
    BudgetPolicy,
    Carry,
    Claim,
    GenerationRequest,
    Permit,
    PreviewHead,
    PreviewLine,
    Purse,
    QueueLimits,
    Scope,
    WindowPlan,
)

NOON_MS = 1_790_000_000_000  # names the periods of budgets
DAY_MS = 86_400_000
PURSE = Purse(now_ms=NOON_MS)
LEASE_SECONDS = 3_600.0  # nothing expires while a test looks
HEAD = PreviewHead(
    file_sha256="f",
    fmt="jsonl",
    predictor_name="p",
    predictor_version="v",
    budget_micro_usd=None,
    jobs=1,
    micro_usd=1,
)
LINE = PreviewLine(
    line_no=1, tier="edge", reason="budget_guard", prs=0.0, threshold=0.0, micro_usd=1, scores={}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What the calls are about."""

    old: str  # batch of ann: claimed, sent, ready, queued
    new: str  # batch of bob: ready on the edge, queued
    coming: str  # batch of ann that is still read
    dead: Claim  # current, its lease has ended, its microbatch has seen a death: the next one splits it
    zombie: Claim  # of the same microbatch, with an old fence
    live: Claim  # current, nothing recorded; calls of its jobs: `out`, `lost`, none yet
    out: str  # call without an answer
    lost: str  # unknown call
    silent: str  # call of `dead` without an answer; another one of its jobs has one that may be repeated
    paid: Claim  # current, on the edge, which is paused: a job failed, one cost too much, one waits
    retries: tuple[str, str]  # batches for retries of its batch, still empty
    done: Claim  # current, all recorded, not finished
    sent: str  # microbatch whose message was lost long ago
    ready: str  # microbatch
    forgotten: str  # microbatch that a hand has closed, with its money
    plan: WindowPlan  # for two queued jobs of `old` and two of `new`; it defers one of `poor`
    deferred: str  # that job, of `poor`
    poor: str  # batch of ann: ready on the edge, deferred
    stored: budgets.Stored  # policy of ann's day
    versions: tuple[str, str, str]  # of predictors: live, known, not yet added
    pictures: tuple[str, str]  # names of `done`'s: one that is old, one that is deleted, but its file is not
    preview: str  # that no batch was submitted from
    key: str  # of the HTTP interface, used just now
    file: str  # upload that an order reads
    unwanted: str  # name of bytes whose file is deleted
    asked: str  # order of ann whose file is not read yet: the only one that is due
    ending: str  # order of ann that is finalizing, with batch `new`
    hook: str  # webhook of ann, older than all batches
    gone: str  # batch of ann, cancelled, watched: nobody was told
    delivery: Delivery  # claimed: a test of `hook`; another one is due, but not while this one is out
    before_ms: int  # all that is here is older


def build(shop: Any) -> World:
    """Fill an empty database."""
    repository = shop.repository
    for scope, name in ((Scope.CLIENT, "ann"), (Scope.DEPLOYMENT, "default")):
        repository.set_budget(
            BudgetPolicy(scope=scope, name=name, span="day", limit_micro_usd=50_000, carry=Carry.ALL),
            who="test",
            reason="world",
            now_ms=NOON_MS,
        )
    assert repository.elect(holder="a", ttl_seconds=3_600) == 1
    repository.beat(worker="w1", tier="cloud", device="cpu", version="0", state="idle")
    old = shop.submit(19, budget=5_000, client="ann")
    new = shop.submit(3, client="bob")
    poor = shop.submit(2, client="ann")
    forgotten = _forgotten(shop)
    paid = _paid(shop)
    work = repository.open_window(limit=100, purse=PURSE)
    ours = replace(work, jobs=tuple(job for job in work.jobs if job.batch_id == old)[:15])
    repository.record_window(shop.plan(ours, size=3, purse=PURSE))
    for batch in (new, poor):
        theirs = replace(work, jobs=tuple(job for job in work.jobs if job.batch_id == batch)[:1])
        repository.record_window(shop.plan(theirs, tier="edge", price=9, purse=PURSE))
    zombie = repository.poll(tier="cloud", worker="w1", lease_seconds=LEASE_SECONDS)
    shop.expire(zombie)
    shop.sweep()
    dead, live, done = (
        repository.poll(tier="cloud", worker=name, lease_seconds=LEASE_SECONDS) for name in ("w1", "w2", "w3")
    )
    assert dead.microbatch_id == zombie.microbatch_id
    assert repository.record(done, shop.outcomes(done))
    out, lost = (intend(repository, live, job) for job in (0, 1))
    repository.doubt_call(lost, error="timed out")
    silent = intend(repository, dead, 1)
    intend(repository, dead, 2, repeatable=True)
    (sent,) = repository.mark_sent(limits={"cloud": 1})
    ready = shop.read("SELECT id FROM microbatch WHERE state = 'ready' AND tier = 'cloud'")
    coming = repository.open_batch(
        client="ann", idem_key="coming", body_sha256="c", name="coming", budget_micro_usd=100, jobs=2
    ).batch_id
    repository.add_jobs(coming, [request(1)], [], cursor_line=1)
    work = repository.open_window(limit=100, purse=PURSE)
    waiting = [job.job_id for job in work.jobs if job.batch_id == old]
    (deferred,) = (job.job_id for job in work.jobs if job.batch_id == poor)
    plan = shop.plan(
        replace(work, jobs=tuple(job for job in work.jobs if job.job_id not in {*waiting[2:], deferred})),
        size=2,
        term=1,
        purse=PURSE,
    )
    versions = tuple(sha256(name.encode()).hexdigest()[:12] for name in ("one", "two", "three"))
    for version in versions[:2]:
        repository.add_predictor(name="p", manifest=manifest(version), weights=b"w", figures={})
    repository.promote_predictor(versions[0], who="test", reason="world")
    pictures = tuple(one.pictures[0].sha256 for one in shop.outcomes(done)[:2])
    before_ms = repository.moment_before(seconds=-1)
    assert repository.delete_pictures(pictures[1:], before_ms=before_ms, batch_id=None, who="test") == 1
    preview = repository.add_preview(HEAD, [LINE])
    key = repository.add_key("secret", client="ann", role=Role.ADMIN, name="")
    repository.find_key(digest("secret"))
    file, unwanted = (
        repository.add_file(client="ann", filename="f", size=1, sha256=word * 64) for word in "fe"
    )
    repository.delete_file(unwanted.id)
    asked, ending = (repository.order_batch(order(file.id, key=word))[0].id for word in ("asked", "ending"))
    hook, gone, delivery = _told(shop)
    retries = tuple(
        repository.open_retry(
            paid.batch_id,
            idem_key=word,
            body_sha256=word,
            name=None,
            budget_micro_usd=None,
            jobs=1,
            limits=QueueLimits(jobs=None, client_jobs=None),
        ).batch_id
        for word in ("once more", "and again")
    )
    # By hand, and last: what only time brings
    shop.change("UPDATE microbatch SET sent_at_ms = 1 WHERE id = :id", id=sent.microbatch_id)
    shop.change("UPDATE worker SET heartbeat_ms = 1")
    shop.change(
        """UPDATE api_batch SET state = 'finalizing', ending = 'completed', batch_id = :batch,
            look_ms = created_ms + 3600000 WHERE id = :id""",
        id=ending,
        batch=new,
    )
    shop.change("INSERT INTO arrivals(client, slot_ms, jobs, pictures) VALUES('ann', 0, 1, 1)")
    shop.expire(dead)
    with reading(shop.engine) as connection:
        (stored,) = (one for one in budgets.policies(connection) if one.policy.name == "ann")
    return World(
        old=old,
        new=new,
        coming=coming,
        dead=dead,
        zombie=zombie,
        live=live,
        out=out,
        lost=lost,
        silent=silent,
        paid=paid,
        retries=retries,
        done=done,
        sent=sent.microbatch_id,
        ready=ready,
        forgotten=forgotten,
        plan=replace(plan, deferred=((deferred, "budget"),)),
        deferred=deferred,
        poor=poor,
        stored=stored,
        versions=versions,
        pictures=pictures,
        preview=preview,
        key=key,
        file=file.id,
        unwanted="e" * 64,
        asked=asked,
        ending=ending,
        hook=hook,
        gone=gone,
        delivery=delivery,
        before_ms=repository.moment_before(seconds=-0.001),
    )


def _forgotten(shop: Any) -> str:
    """Leave a microbatch whose jobs are done and which holds money: only a hand can make it."""
    repository = shop.repository
    batch = shop.submit(2, client="carl")
    work = repository.open_window(limit=100, purse=PURSE)
    mine = replace(work, jobs=tuple(job for job in work.jobs if job.batch_id == batch))
    repository.record_window(shop.plan(mine, price=5, purse=PURSE))
    claim = repository.poll(tier="cloud", worker="w0", lease_seconds=LEASE_SECONDS)
    repository.record(claim, shop.outcomes(claim)[:1])
    shop.change(
        "UPDATE microbatch SET state = 'dead', lease_until_ms = NULL WHERE id = :id", id=claim.microbatch_id
    )
    return claim.microbatch_id


def _told(shop: Any) -> tuple[str, str, Delivery]:
    """Return a webhook, a batch whose end is to be told, and a delivery that is being sent."""
    repository = shop.repository
    hook = repository.add_webhook(
        client="ann", url="https://hooks.example/", secret="whsec_aa", events=list(BatchEvent)
    )
    other = repository.add_webhook(
        client="bob", url="https://hooks.example/", secret="whsec_bb", events=list(BatchEvent)
    )
    gone = shop.submit(1, client="ann")
    repository.cancel_batch(gone)
    repository.notice_batches(since_ms=None)
    delivery = repository.claim_delivery(delivery_id=repository.test_webhook(hook))
    repository.test_webhook(hook)
    repository.test_webhook(other)
    shop.change("UPDATE webhook SET created_ms = 1")
    shop.change("UPDATE webhook_delivery SET claimed_until_ms = 9000000000000 WHERE tries = 1")
    shop.change("UPDATE webhook_delivery SET subject = webhook_id || tries")
    assert delivery is not None
    return hook, gone, delivery


def _paid(shop: Any) -> Claim:
    """Return a claim on the edge: one job failed, one picture cost more than permitted, one is not bought."""
    repository = shop.repository
    batch = shop.submit(3, client="dora")
    work = repository.open_window(limit=100, purse=PURSE)
    mine = replace(work, jobs=tuple(job for job in work.jobs if job.batch_id == batch))
    repository.record_window(shop.plan(mine, tier="edge", price=9, purse=PURSE))
    claim: Claim = repository.poll(tier="edge", worker="w7", lease_seconds=LEASE_SECONDS)
    repository.record(claim, [shop.outcome(claim.jobs[0], fails=True)])
    call = intend(repository, claim, 1)
    assert repository.settle_call(call, cost=20, image_sha256=None, error="no picture") == 11
    return claim


def intend(repository: Repository, claim: Claim, place: int, *, repeatable: bool = False) -> str:
    """Permit the purchase of one job's picture for what was reserved, and return the call."""
    job = claim.jobs[place]
    permit = repository.intend(
        claim, job_id=job.job_id, index=0, cost_max=job.micro_usd, repeatable=repeatable
    )
    assert isinstance(permit, Permit)
    return permit.call_id


def order(file_id: str, *, key: str | None, body: str = "b") -> Order:
    return Order(
        client="ann",
        idem_key=key,
        body_sha256=body,
        input_file_id=file_id,
        endpoint="/v1/images/generations",
        completion_window="24h",
        window_ms=DAY_MS,
        metadata=None,
        name="f",
        budget_micro_usd=None,
        deadline=None,
        priority=0,
        preview_id=None,
        base_url="http://here",
        output_seconds=None,
    )


def request(line: int) -> GenerationRequest:
    return GenerationRequest(line_no=line, custom_id=f"job-{line}", prompt=f"{line} rings", seed=line)


def manifest(version: str) -> str:
    content: Mapping[str, object] = {"version": version, "data_sha256": "d", "prompts": 1}
    return orjson.dumps(content).decode()
