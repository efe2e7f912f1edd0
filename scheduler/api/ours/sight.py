"""What a caller may see and change: another client's batches and jobs are not there for a submitter.

It asks whose a row is; it shows none.
"""

import re
from typing import Annotated

from fastapi import Path, Request

from db import listing
from db.listing import Owner
from routet2i.errors import NotFound
from scheduler.api.answers import Refused
from scheduler.api.callers import Caller
from scheduler.api.deployment import repository_of

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BatchId = Annotated[str, Path(max_length=64, description="a batch's id")]
JobId = Annotated[str, Path(max_length=64, description="a job's id")]


def batch_seen(request: Request, caller: Caller, batch_id: str) -> Owner:
    """Return whose a batch is, if the caller may see it; raises NotFound."""
    missing = NotFound(f"no batch {batch_id}")  # as `listing` says of one that nobody has
    if not UUID.fullmatch(batch_id):
        raise missing
    owner = listing.owner_of_batch(repository_of(request).engine, batch_id)
    if not caller.may_see(owner.client):
        raise missing
    return owner


def batch_owned(request: Request, caller: Caller, batch_id: str) -> Owner:
    """Return whose a batch is, if the caller may change it; raises NotFound, or Refused with 403."""
    owner = batch_seen(request, caller, batch_id)
    _require(caller, owner)
    return owner


def job_seen(request: Request, caller: Caller, job_id: str) -> Owner:
    """Return whose a job is, if the caller may see it; raises NotFound."""
    missing = NotFound(f"no job {job_id}")
    if not UUID.fullmatch(job_id):
        raise missing
    owner = listing.owner_of_job(repository_of(request).engine, job_id)
    if not caller.may_see(owner.client):
        raise missing
    return owner


def job_owned(request: Request, caller: Caller, job_id: str) -> Owner:
    """Return whose a job is, if the caller may change it; raises NotFound, or Refused with 403."""
    owner = job_seen(request, caller, job_id)
    _require(caller, owner)
    return owner


def _require(caller: Caller, owner: Owner) -> None:
    if not caller.may_change(owner.client):
        raise Refused(403, f"a key of role {caller.role} may look but not change", code="role")
