"""Every write transaction of the repository, called on the world of `tests.protocol.world`.

The names are read from the repository's source, so that a new transaction is missed by nobody.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

import db.repository
from db import arrivals, budgets, endings, intake, keys, link_secrets, sweeping, waiting, workers
from db.api_batches import State
from db.keys import Role
from db.pauses import Paused
from db.repository import Repository
from db.session import write
from routet2i.contracts import (
    BatchEvent,
    BudgetPolicy,
    Carry,
    Claim,
    JobOutcome,
    Permit,
    QueueLimits,
    Scope,
    SweepReport,
)
from routet2i.errors import NotFound, RouteT2IError
from tests.protocol.copies import UUID
from tests.protocol.world import (
    DAY_MS,
    HEAD,
    LEASE_SECONDS,
    LINE,
    NOON_MS,
    World,
    manifest,
    order,
    request,
)

SHA = "a" * 64  # a picture's name

Call = Callable[[Repository, World, Any], object]  # the last one is the class of `shop`

HOW_TO_ADD = (
    "db/repository.py has other write transactions than tests/protocol/transactions.py calls: {names}. Add "
    "a call 'module.function' to CALLS there (or remove it), and what it needs to tests/protocol/world.py; "
    "then run tests/integration/test_interleavings.py and test_lock_order.py, which pair it with all others."
)


def names() -> frozenset[str]:
    """Return `module.function` of everything that the repository hands to `write`."""
    tree = ast.parse(Path(str(db.repository.__file__)).read_text(encoding="utf-8"))
    modules = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "db"
        for alias in node.names
    }
    named = {  # what a verb calls a transaction before it hands it over
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "write":
            inside = list(_functions(node.args[1], named=named, modules=modules))
            assert inside, f"line {node.lineno}: `write` is given something that is no function of db/"
            found.add(inside[0])
    return frozenset(found)


def _functions(node: ast.AST, *, named: Mapping[str, ast.AST], modules: set[str]) -> Iterator[str]:
    """Yield `module.function` of what stands in an expression, and in what its names mean."""
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id in modules:
            yield f"{one.value.id}.{one.attr}"
        elif isinstance(one, ast.Name) and one.id in named:
            yield from _functions(named[one.id], named={}, modules=modules)


def _direct(function: Callable[..., object], **arguments: Any) -> Call:
    """Return a call of a transaction that a verb makes among others."""
    return lambda repository, _world, _shop: write(repository.engine, partial(function, **arguments))


def _day(limit: int) -> BudgetPolicy:
    return BudgetPolicy(scope=Scope.CLIENT, name="ann", span="day", limit_micro_usd=limit, carry=Carry.ALL)


def _previewed(repository: Repository, _world: World, _shop: Any) -> object:
    return repository.add_preview(HEAD, [LINE]) and None


def _ordered(repository: Repository, world: World) -> object:
    try:
        return repository.order_batch(order(world.file, key="fresh"))[1]
    except NotFound:
        return "the file is gone"


def _promised(repository: Repository, world: World, _shop: Any) -> object:
    try:
        return repository.open_batch(
            client="ann",
            idem_key="promised",
            body_sha256="b",
            name="promised",
            budget_micro_usd=None,
            preview_id=world.preview,
        ).created
    except IntegrityError:
        return "the preview is gone"


def _intended(repository: Repository, claim: Claim, place: int) -> object:
    job = claim.jobs[place]
    try:
        found = repository.intend(claim, job_id=job.job_id, index=0, cost_max=job.micro_usd, repeatable=False)
    except RouteT2IError as error:  # it names a call that is new in each run
        return UUID.sub("", str(error))
    return "a new call" if isinstance(found, Permit) and not found.resumed else found


def _tested(repository: Repository, world: World, _shop: Any) -> object:
    try:
        return repository.test_webhook(world.hook) and None
    except NotFound:
        return "it was removed"


def _drawn_again(world: World, shop: Any) -> JobOutcome:
    """Return the outcome of a job of `dead` without a call: a picture that is the same as one of `done`."""
    outcome: JobOutcome = shop.outcome(world.dead.jobs[0])
    (picture,) = outcome.pictures
    return replace(outcome, pictures=(replace(picture, sha256=world.pictures[0]),))


CALLS: Mapping[str, Call] = {  # what follows a space tells calls of one transaction apart
    "intake.open_batch": lambda r, w, s: (
        r.open_batch(
            client="ann",
            idem_key="fresh",
            body_sha256="b",
            name="fresh",
            budget_micro_usd=7,
            jobs=2,
            limits=QueueLimits(jobs=13, client_jobs=None),
        ).created
    ),
    "intake.open_batch another": lambda r, w, s: (
        r.open_batch(
            client="bob",
            idem_key="another",
            body_sha256="b",
            name="another",
            budget_micro_usd=None,
            jobs=2,
            limits=QueueLimits(jobs=13, client_jobs=None),
        ).created
    ),
    "intake.add_jobs": lambda r, w, s: r.add_jobs(w.coming, [request(2)], [], cursor_line=2),
    "intake.close_intake": lambda r, w, s: r.close_intake(w.coming),
    "intake.refresh_statistics": _direct(intake.refresh_statistics),
    "previews.add": _previewed,
    "previews.add_lines": _previewed,
    "leader.elect": lambda r, w, s: r.elect(holder="b", ttl_seconds=3_600),
    "leader.keep_leading": lambda r, w, s: r.keep_leading(holder="a", term=1, ttl_seconds=3_600),
    "leader.resign": lambda r, w, s: r.resign(holder="a", term=1),
    "windows.record_window": lambda r, w, s: r.record_window(w.plan),
    "budgets.open_period": lambda r, w, s: write(
        r.engine, partial(budgets.open_period, stored=w.stored, now_ms=NOON_MS + DAY_MS)
    ),
    "budgets.set_policy": lambda r, w, s: r.set_budget(_day(2_000), who="t", reason="", now_ms=NOON_MS),
    "keys.add": lambda r, w, s: r.add_key("new", client="ann", role=Role.AUDITOR, name="") and None,
    "keys.touch": lambda r, w, s: write(r.engine, partial(keys.touch, key_id=w.key)),
    "keys.revoke": lambda r, w, s: r.revoke_key(w.key),
    "files.add": lambda r, w, s: r.add_file(client="ann", filename="g", size=1, sha256=SHA).bytes,
    "files.delete": lambda r, w, s: r.delete_file(w.file),
    "files.forget": lambda r, w, s: r.forget_file(w.unwanted),
    "api_batches.create": lambda r, w, s: _ordered(r, w),
    "api_batches.take": lambda r, w, s: (taken := r.take_order(seconds=3_600)) and taken.row.id,
    "api_batches.look_again": lambda r, w, s: r.look_again(w.asked, seconds=3_600, total=7),
    "api_batches.move": lambda r, w, s: r.move_order(
        w.asked, before=State.VALIDATING, after=State.CANCELLING, ending=State.CANCELLED
    ),
    "api_batches.move ending": lambda r, w, s: r.move_order(
        w.ending, before=State.FINALIZING, after=State.FAILED, errors="[]"
    ),
    "api_batches.open_batch": lambda r, w, s: (
        r.open_ordered(
            w.asked,
            body_sha256="b",
            name="f",
            budget_micro_usd=5,
            preview_id=None,
            jobs=1,
            limits=QueueLimits(jobs=13, client_jobs=None),
        ).created
    ),
    "api_batches.finish": lambda r, w, s: r.finish_order(
        w.ending, total=3, completed=1, failed=0, output_bytes=5, error_bytes=None
    ),
    "link_secrets.make": _direct(link_secrets.make, purpose="picture", secret="s"),
    "pauses.pause": lambda r, w, s: r.pause(Paused.CLIENT, "ann", who="t", reason="") and None,
    "pauses.resume": lambda r, w, s: r.resume(Paused.CLIENT, "ann") and None,
    "webhooks.add": lambda r, w, s: (
        r.add_webhook(
            client="ann",
            url="https://hooks.example/",
            secret="whsec_cc",
            events=[BatchEvent.FAILED],
            batch_id=w.gone,
        )
        and None
    ),
    "webhooks.remove": lambda r, w, s: r.remove_webhook(w.hook),
    "outbox.test": _tested,
    "outbox.claim": lambda r, w, s: (found := r.claim_delivery()) and found.number,
    "outbox.conclude": lambda r, w, s: r.conclude_delivery(
        w.delivery, status=500, error="500", milliseconds=1, chance=0.5
    ),
    "endings.notice": lambda r, w, s: r.notice_batches(since_ms=None),
    "endings.look": lambda r, w, s: write(r.engine, partial(endings.look, batch_id=w.gone)),
    "endings.put_off": lambda r, w, s: write(r.engine, partial(endings.put_off, batch_id=w.gone)),
    "clients.set_weight": lambda r, w, s: r.set_weight("ann", weight=3),
    "dispatching.mark_sent": lambda r, w, s: {
        one.microbatch_id for one in r.mark_sent(limits={"cloud": 3, "edge": 3})
    },
    "claims.claim": lambda r, w, s: told(
        r.claim(w.sent, tier="cloud", worker="w4", lease_seconds=LEASE_SECONDS)
    ),
    "claims.claim ready": lambda r, w, s: told(
        r.claim(w.ready, tier="cloud", worker="w5", lease_seconds=LEASE_SECONDS)
    ),
    "claims.poll": lambda r, w, s: told(r.poll(tier="cloud", worker="w6", lease_seconds=LEASE_SECONDS)),
    "claims.hold": lambda r, w, s: r.renew(w.live),
    "claims.hold expired": lambda r, w, s: r.renew(w.dead),
    "claims.record": lambda r, w, s: r.record(w.live, [s(r).outcome(job, fails=True) for job in w.live.jobs]),
    "claims.record part, late": lambda r, w, s: r.record(w.dead, [_drawn_again(w, s(r))]),
    "claims.record zombie": lambda r, w, s: r.record(w.zombie, s(r).outcomes(w.zombie)),
    "claims.finish": lambda r, w, s: r.finish(w.done),
    "claims.finish early": lambda r, w, s: r.finish(w.live),
    "claims.release": lambda r, w, s: r.release(w.live, reason="drained"),
    "claims.release late": lambda r, w, s: r.release(w.dead, reason="drained"),
    "claims.report_cut_off": lambda r, w, s: r.report_cut_off(w.live),
    "claims.report_cut_off late": lambda r, w, s: r.report_cut_off(w.dead),
    "claims.report_cut_off zombie": lambda r, w, s: r.report_cut_off(w.zombie),
    "permits.intend": lambda r, w, s: _intended(r, w.live, 2),
    "permits.intend again": lambda r, w, s: _intended(r, w.live, 1),
    "permits.intend paused": lambda r, w, s: _intended(r, w.paid, 2),
    "permits.void": lambda r, w, s: r.void_call(w.live, w.out, error="refused"),
    "permits.void lost": lambda r, w, s: r.void_call(w.live, w.lost, error="refused"),
    "calls.accept": lambda r, w, s: r.accept_call(w.out, remote_id="r-1"),
    "calls.settle": lambda r, w, s: r.settle_call(w.out, cost=60, image_sha256=SHA),
    "calls.settle lost": lambda r, w, s: r.settle_call(w.lost, cost=65, image_sha256=SHA),
    "calls.settle late, too much": lambda r, w, s: r.settle_call(w.silent, cost=80, image_sha256=SHA),
    "calls.doubt": lambda r, w, s: r.doubt_call(w.out, error="timed out"),
    "calls.resume": lambda r, w, s: r.resume_tier("edge", who="t", reason=""),
    "workers.beat": lambda r, w, s: r.beat(
        worker="w1", tier="cloud", device="cpu", version="0", state="draining"
    ),
    "workers.note_fault": lambda r, w, s: r.note_fault(worker="w1", fault="no memory"),
    "workers.mark_lost": _direct(workers.mark_lost, silence_seconds=15.0),
    "arrivals.forget": _direct(arrivals.forget),
    "sweeping.resend": _direct(sweeping.resend, resend_seconds=30.0, silence_seconds=15.0),
    "sweeping.follow_clock": _direct(sweeping.follow_clock, silence_seconds=15.0),
    "sweeping.expire": lambda r, w, s: write(
        r.engine, partial(sweeping.expire, microbatch_id=w.dead.microbatch_id, max_deaths=4)
    ),
    "sweeping.release_forgotten": lambda r, w, s: write(
        r.engine, partial(sweeping.release_forgotten, microbatch_id=w.forgotten)
    ),
    "sweeping.count": _direct(sweeping.count, report=SweepReport(expired=2, failed=1)),
    "waiting.mend": lambda r, w, s: write(r.engine, partial(waiting.mend, batch_id=w.old)),
    "cancelling.cancel_batch": lambda r, w, s: r.cancel_batch(w.old),
    "cancelling.cancel_batch poor": lambda r, w, s: r.cancel_batch(w.poor),
    "cancelling.cancel_batch coming": lambda r, w, s: r.cancel_batch(w.coming),
    "cancelling.cancel_job expired": lambda r, w, s: r.cancel_job(w.dead.jobs[0].job_id),
    "cancelling.cancel_job running": lambda r, w, s: r.cancel_job(w.live.jobs[0].job_id),
    "cancelling.cancel_job planned": lambda r, w, s: r.cancel_job(
        w.plan.microbatches[0].assignments[0].job_id
    ),
    "cancelling.cancel_job deferred": lambda r, w, s: r.cancel_job(w.deferred),
    "retrying.open_retry": lambda r, w, s: (
        r.open_retry(
            w.paid.batch_id,
            idem_key="retry",
            body_sha256="b",
            name=None,
            budget_micro_usd=None,
            jobs=1,
            limits=QueueLimits(jobs=12, client_jobs=None),
        ).created
    ),
    "retrying.add_step": lambda r, w, s: r.add_retries(w.paid.batch_id, w.retries[0], job_ids=None, limit=5),
    "retrying.add_step another": lambda r, w, s: r.add_retries(
        w.paid.batch_id, w.retries[1], job_ids=None, limit=5
    ),
    "pruning.delete": lambda r, w, s: r.delete_pictures(
        w.pictures, before_ms=w.before_ms, batch_id=None, who="t"
    ),
    "pruning.finish": lambda r, w, s: r.finish_deletions(w.pictures),
    "pruning.forget_previews": lambda r, w, s: r.forget_previews(before_ms=w.before_ms),
    "intake.open_batch promised": _promised,
    "predictors.add": lambda r, w, s: r.add_predictor(
        name="p", manifest=manifest(w.versions[2]), weights=b"w", figures={}
    ),
    "predictors.promote": lambda r, w, s: r.promote_predictor(w.versions[1], who="t", reason=""),
}


def told(claim: Any) -> object:
    """Return what a claim says, without its worker."""
    return claim and (claim.microbatch_id, claim.fence, tuple(job.job_id for job in claim.jobs))
