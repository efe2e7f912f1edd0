"""A small history, the same on every day and database: what the answers in docs/sql.md are about.

A studio draws four posters on the cloud, one of which fails; a press wants the cloud, but its budget pays
only the edge; two more jobs wait. The program's own verbs make it, so it keeps every promise.
"""

from typing import Any

from db.repository import Repository
from routet2i.contracts import BudgetPolicy, Carry, GenerationRequest, Scope

WAITED_MS = 90_000  # between submission and decision


def make_history(shop: Any) -> None:
    """Fill an empty database."""
    repository: Repository = shop.repository
    repository.set_budget(
        BudgetPolicy(
            scope=Scope.CLIENT, name="studio", span="total", limit_micro_usd=1_000_000, carry=Carry.NONE
        ),
        who="ana",
        reason="spring campaign",
    )
    _submit(repository, "posters", client="studio", jobs=4, budget=300_000)
    shop.window(tier="cloud", price=65_000)
    claim = shop.poll(tier="cloud", worker="cloud-1")
    shop.repository.record(claim, [shop.outcome(job, fails=job.seed == 4) for job in claim.jobs])
    shop.repository.finish(claim)
    _submit(repository, "leaflets", client="press", jobs=3, budget=20_000)
    shop.window(tier="cloud", price=65_000, fallback_price=5_000)
    shop.work(tier="edge", worker="edge-1")
    _submit(repository, "stickers", client="studio", jobs=2, budget=None)
    # the clock of the machine is not part of the history
    shop.change(
        """UPDATE job SET created_ms = (
               SELECT w.committed_ms - :waited FROM assignment a JOIN decision_window w ON w.id = a.window_id
                WHERE a.job_id = job.id)
            WHERE microbatch_id IS NOT NULL""",
        waited=WAITED_MS,
    )


def _submit(repository: Repository, name: str, *, client: str, jobs: int, budget: int | None) -> None:
    opened = repository.open_batch(
        client=client, idem_key=name, body_sha256=name, name=name, budget_micro_usd=budget
    )
    requests = [
        GenerationRequest(
            line_no=line, custom_id=f"{name}-{line}", prompt=f"{line} red circles", seed=line, n=1
        )
        for line in range(1, jobs + 1)
    ]
    repository.add_jobs(opened.batch_id, requests, [], cursor_line=jobs)
    repository.close_intake(opened.batch_id)
