"""A batch of one job, for somebody who waits for its picture: checked as a line of a file would be.

It writes the batch and opens it; whoever waits asks `db.ends`. It knows no web and no SQL.
"""

import hashlib
import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from routet2i import tracing
from routet2i.contracts import GenerationRequest, Rejection, new_id
from routet2i.errors import BudgetTooSmall, UsageError
from routet2i.settings import Settings
from routet2i.tiers import Tiers
from scheduler.intake import read_requests
from scheduler.promise import dollars
from scheduler.submit import Batches, queue_limits


class Singles(Batches, Protocol):
    """What a single job needs of `db.repository.Repository`."""

    def first_job(self, batch_id: str) -> str | None:
        """Return its job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Single:
    """A job that is committed."""

    batch_id: str
    job_id: str
    created: bool  # False: the same key and body came before


def checked(document: Mapping[str, Any], *, settings: Settings, tiers: Tiers, seed: str) -> GenerationRequest:
    """Return the request that a line with these fields would become; raises UsageError.

    Args:
        document: fields of a JSON line.
        seed: makes the seed of a picture that names none.
    """
    line = json.dumps(document).encode("utf-8", "surrogatepass")
    (found,) = read_requests(
        io.BytesIO(line),
        fmt="jsonl",
        max_line_bytes=settings.max_line_bytes,
        max_prompt_chars=settings.max_prompt_chars,
        seed_base=seed.encode(),
        tiers=tiers.routed,
    )
    if isinstance(found, Rejection):
        raise UsageError(f"{found.reason}; {found.remedy}")
    return found


def submit_single(
    singles: Singles,
    document: Mapping[str, Any],
    *,
    client: str,
    key: str | None,
    name: str,
    budget_micro_usd: int | None,
    settings: Settings,
    tiers: Tiers,
    response_format: str | None = None,
) -> Single:
    """Make a batch of one job; when this returns, it is committed.

    Args:
        document: fields of a JSON line.
        key: makes it repeatable: the same key and fields are the same job; None = a new one each time.
        name: of the batch, for people.
        budget_micro_usd: its limit; None = no limit of its own.
        response_format: how its picture is to be shown, a part of what is asked; None = not said.
    Raises:
        UsageError: a field is wrong. Conflict: the key came before with other fields.
        BudgetTooSmall: the budget does not cover the cheapest tier. QueueFull: too many jobs wait.
    """
    own_key = f"single:{key or new_id()}"
    request = checked(document, settings=settings, tiers=tiers, seed=f"{client}\n{own_key}")
    request = replace(request, response_format=response_format)
    least = tiers[request.tier or tiers.edge].price(request.n, width=request.width, height=request.height)
    if budget_micro_usd is not None and budget_micro_usd < least:
        raise BudgetTooSmall(
            f"the budget of ${dollars(budget_micro_usd)} does not cover {request.n} pictures, which cost "
            f"${dollars(least)} at least; give ${dollars(least)} or more"
        )
    wish = json.dumps(document, sort_keys=True) + f"\n{budget_micro_usd}\n{response_format}"
    opened = singles.open_batch(
        client=client,
        idem_key=own_key,
        body_sha256=hashlib.sha256(wish.encode("utf-8", "surrogatepass")).hexdigest(),
        name=name,
        budget_micro_usd=budget_micro_usd,
        preview_id=None,
        jobs=1,
        limits=queue_limits(settings),
    )
    if opened.state == "ingesting":
        began_ns = time.time_ns()
        singles.add_jobs(opened.batch_id, [request], [], cursor_line=request.line_no)
        singles.close_intake(opened.batch_id)
        tracing.submitted(
            opened.batch_id,
            began_ns=began_ns,
            attributes={"routet2i.client": client, "routet2i.jobs": 1},
        )
    job_id = singles.first_job(opened.batch_id)
    assert job_id is not None  # an open batch of ours has its one job
    return Single(batch_id=opened.batch_id, job_id=job_id, created=opened.created)
