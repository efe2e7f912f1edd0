"""Our side of the overspend measurement: writers and schedulers on the real repository.

A writer reserves a random amount for a job of its batch in a window of its own, then takes a microbatch,
waits as long as a call, and settles a random part of it; the rest is released. Schedulers decide about the
same jobs at the same time, none of them elected.
"""

import logging
import random
import time
from dataclasses import dataclass

import structlog
from sqlalchemy import text

from db.repository import Repository
from db.session import make_engine, reading
from routet2i.contracts import (
    Assignment,
    BudgetPolicy,
    GenerationRequest,
    JobOutcome,
    JobState,
    Microbatch,
    Scope,
    TierKind,
    WindowPlan,
    new_id,
)
from routet2i.errors import ServiceUnavailable
from routet2i.settings import Settings
from scheduler.predictor.interface import open_predictor
from scheduler.service import run_window
from tests.allocation.processes import in_threads
from tests.allocation.workload import CALL_SECONDS, DEPLOYMENT, Workload, batch_of, bill, client_of, wish

LEASE_SECONDS = 600.0  # what a killed writer holds stays held
TIERS = ("edge", "cloud")
JOBS = 2_000  # of each batch: more than its money can pay
WINDOW_JOBS = 16
PAUSE_SECONDS = 0.05  # of a scheduler between two windows
CHEAPER = 4  # times less: what a wish falls back to


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """What was charged and is held, counted from outcomes and microbatches, not from totals of budgets."""

    by_limit: dict[str, int]  # micro-dollars
    settled: int  # jobs
    deferred: int  # jobs that a limit has refused at least once, and that still wait


def prepare(url: str, workload: Workload) -> dict[str, str]:
    """Write limits and jobs; return batch name -> batch id."""
    engine = make_engine(url)
    repository = Repository(engine)
    limits = workload.limits
    names = {}
    for number in range(workload.processes):
        name = batch_of(number)
        opened = repository.open_batch(
            client=client_of(number),
            idem_key=name,
            body_sha256=name,
            name=name,
            budget_micro_usd=limits[name],
        )
        requests = [
            GenerationRequest(
                line_no=line, custom_id=f"job-{line}", prompt=f"{line % 9} red circles", seed=line
            )
            for line in range(1, JOBS + 1)
        ]
        repository.add_jobs(opened.batch_id, requests, [], cursor_line=JOBS)
        repository.close_intake(opened.batch_id)
        names[name] = opened.batch_id
    for name, limit in limits.items():
        if name.startswith("batch"):
            continue
        scope = Scope.DEPLOYMENT if name == "deployment" else Scope.CLIENT
        repository.set_budget(
            BudgetPolicy(
                scope=scope,
                name=DEPLOYMENT if scope is Scope.DEPLOYMENT else name,
                span="total",
                limit_micro_usd=limit,
            ),
            who="the measurement",
            reason="to be held",
        )
    engine.dispose()
    return names


def write(url: str, batches: dict[str, str], threads: int, number: int, until: float, seed: int) -> None:
    """Body of a process: so many writers on the batch of its number until a moment of Unix time."""
    engine = make_engine(url)
    repository = Repository(engine)
    batch_id = batches[batch_of(number)]
    with reading(engine) as connection:
        jobs = connection.scalars(
            text("SELECT id FROM job WHERE batch_id = :id ORDER BY seq"), {"id": batch_id}
        ).all()

    def one(writer: int) -> None:
        draw = random.Random(f"{seed}/{number}/{writer}")
        while time.time() < until:
            try:
                plan = _wish(batch_id, draw.choice(jobs), draw=draw)
                repository.record_window(plan)
                own = plan.microbatches[0].microbatch_id
                _settle(repository, draw, prefer=own, worker=f"{number}/{writer}")
            except ServiceUnavailable:
                continue  # the others kept it busy for too long

    in_threads(one, threads)
    engine.dispose()


def _wish(batch_id: str, job_id: str, *, draw: random.Random) -> WindowPlan:
    """Return a window for one job, at a random price, in half of all cases with a cheaper way."""
    price = wish(draw)
    cheaper = price // CHEAPER if draw.random() < 0.5 else 0
    return WindowPlan(
        window_id=new_id(),
        microbatches=(
            Microbatch(
                microbatch_id=new_id(),
                batch_id=batch_id,
                tier="cloud",
                kind=TierKind.CLOUD,
                width=64,
                height=64,
                assignments=_assigned(job_id, "cloud", price),
                fallback=_assigned(job_id, "edge", cheaper) if cheaper else (),
                fallback_tier="edge" if cheaper else None,
            ),
        ),
        policy="random",
        predictor_name="none",
        predictor_version="1",
        available_micro_usd=None,
        solve_us=0,
    )


def _assigned(job_id: str, tier: str, micro_usd: int) -> tuple[Assignment, ...]:
    return (
        Assignment(
            job_id=job_id,
            tier=tier,
            reason="predicted_better_on_cloud",
            prs=0.5,
            threshold=0.5,
            micro_usd=micro_usd,
        ),
    )


def _settle(repository: Repository, draw: random.Random, *, prefer: str, worker: str) -> None:
    """Take our own microbatch, or any that a scheduler has left ready, and pay a part of it."""
    claim = None
    for tier in draw.sample(TIERS, len(TIERS)):
        claim = claim or repository.claim(prefer, tier=tier, worker=worker, lease_seconds=LEASE_SECONDS)
    for tier in draw.sample(TIERS, len(TIERS)):
        claim = claim or repository.poll(tier=tier, worker=worker, lease_seconds=LEASE_SECONDS)
    if claim is None:
        return
    time.sleep(CALL_SECONDS)
    outcomes = []
    for job in claim.jobs:
        charged = bill(draw, job.micro_usd) if job.micro_usd else 0
        failed = charged == 0
        outcomes.append(
            JobOutcome(
                job_id=job.job_id,
                state=JobState.FAILED,  # there is no picture: only the money is measured
                micro_usd=charged,
                error_class="Refused" if failed else "Measured",
                error="nothing was drawn",
            )
        )
    repository.record(claim, outcomes)
    repository.finish(claim)


def schedule(url: str, number: int, until: float, seed: int) -> None:
    """Body of a process: a scheduler that decides and records windows until a moment of Unix time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    engine = make_engine(url)
    repository = Repository(engine)
    settings = Settings(deployment=DEPLOYMENT, window_jobs=WINDOW_JOBS, microbatch_jobs=2)
    tiers = settings.read_tiers()
    predictor = open_predictor("prompt_length", tiers=tiers)
    while time.time() < until:
        try:
            run_window(repository, predictor, tiers=tiers, settings=settings, term=None)
        except ServiceUnavailable:
            continue
        time.sleep(PAUSE_SECONDS)
    engine.dispose()


def used(url: str, workload: Workload, batches: dict[str, str]) -> Used:
    """Count what was charged and what is held, for every limit."""
    engine = make_engine(url)
    with reading(engine) as connection:

        def sums(statement: str) -> dict[str, int]:
            return {row[0]: int(row[1]) for row in connection.execute(text(statement)).all()}

        charged = sums(
            """SELECT j.batch_id, sum(o.micro_usd) FROM outcome o JOIN job j ON j.id = o.job_id
                GROUP BY j.batch_id"""
        )
        held = sums("SELECT batch_id, sum(reserved_left) FROM microbatch GROUP BY batch_id")
        settled = int(connection.scalar(text("SELECT count(*) FROM outcome")) or 0)
        deferred = int(
            connection.scalar(
                text("SELECT count(*) FROM job WHERE state = 'queued' AND defer_reason IS NOT NULL")
            )
            or 0
        )
    engine.dispose()
    by_limit: dict[str, int] = {}
    for number in range(workload.processes):
        batch_id = batches[batch_of(number)]
        amount = charged.get(batch_id, 0) + held.get(batch_id, 0)
        for name in (batch_of(number), client_of(number), "deployment"):
            by_limit[name] = by_limit.get(name, 0) + amount
    return Used(by_limit=by_limit, settled=settled, deferred=deferred)
