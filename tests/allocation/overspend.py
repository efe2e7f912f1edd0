"""Overspend with many writers, several schedulers and SIGKILLs, beside two rivals on the same limits.

It starts everything and judges; what is written stands in `writers`, `naive` and `gateway`.
"""

from collections.abc import Iterator

from db.invariants import check_invariants
from db.session import make_engine
from routet2i.figures import Figure
from tests.allocation import gateway, naive, writers
from tests.allocation.databases import DIALECTS, NAMES, Databases
from tests.allocation.processes import Role, run_roles
from tests.allocation.workload import Workload, excess

USED_UP = 0.9  # of a limit: the average wish no longer fits into a batch's


def overspend_figures(made: Databases, *, workload: Workload, command: str) -> Iterator[Figure]:
    """Yield for each database how much is spent beyond the limits, and how many sums differ."""
    rival = gateway.told(workload)
    for dialect in DIALECTS:
        yield from _ours(
            made.fresh(dialect),
            dialect,
            workload,
            command,
            rivals=(f"read, call, then write: {_naive(made.fresh(dialect), workload)}", rival),
        )


def _naive(url: str, workload: Workload) -> str:
    naive.prepare(url, workload)
    run_roles(
        [
            Role(
                body=naive.write_naively,
                arguments=(url, workload.threads),
                count=workload.processes,
                kills=workload.kills,
            )
        ],
        seconds=workload.seconds,
    )
    return f"{excess(naive.used(url), workload.limits):,}"


def under_fire(url: str, workload: Workload, batches: dict[str, str], *, schedulers_killed: int) -> int:
    """Let writers and schedulers work at once, kill some and replace them; return how many were killed."""
    return run_roles(
        [
            Role(
                body=writers.write,
                arguments=(url, batches, workload.threads),
                count=workload.processes,
                kills=workload.kills,
            ),
            Role(body=writers.schedule, arguments=(url,), count=workload.schedulers, kills=schedulers_killed),
        ],
        seconds=workload.seconds,
    )


def _ours(
    url: str, dialect: str, workload: Workload, command: str, *, rivals: tuple[str, ...]
) -> Iterator[Figure]:
    batches = writers.prepare(url, workload)
    killed = under_fire(url, workload, batches, schedulers_killed=2)
    found = writers.used(url, workload, batches)
    beyond = excess(found.by_limit, workload.limits)
    told = (
        f"{workload.writers} writers, {workload.schedulers} schedulers, {killed} SIGKILLs, {NAMES[dialect]}"
    )
    share = 100 * found.by_limit["deployment"] / workload.limit
    bound = sum(found.by_limit[name] >= USED_UP * limit for name, limit in workload.limits.items())
    spent = (
        f"{share:.1f} % of ${workload.limit / 1e6:g} used, {bound} of {len(workload.limits)} limits used up, "
        f"{found.settled} jobs paid, {found.deferred} wait"
    )
    yield Figure(
        figure=f"beyond any limit, {told}",
        value=beyond,
        unit=f"micro-dollars ({spent})",
        baseline="; ".join(rivals),
        target="0",
        holds=beyond == 0,
        command=command,
    )
    engine = make_engine(url)
    broken = check_invariants(engine)
    engine.dispose()
    yield Figure(
        figure=f"broken promises after it, ledger sums against totals among them, {NAMES[dialect]}",
        value=len(broken),
        unit="rows" if not broken else f"rows ({broken[0].invariant}: {broken[0].detail})",
        baseline="",
        target="0",
        holds=not broken,
        command=command,
    )
