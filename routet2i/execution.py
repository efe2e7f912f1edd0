"""What a worker does with one microbatch: claim, generate, record.

The collaborators are given: this module knows the order of the steps, the lease and the faults, but neither
SQL nor torch nor Celery. The real ones are `db.repository.Repository`, `routet2i.models.*` and
`routet2i.images.ImageStore`; `routet2i.fakes` has the others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from routet2i.contracts import Claim, JobOutcome


@dataclass(frozen=True, kw_only=True, slots=True)
class RenderRequest:
    """One picture to render."""

    prompt: str
    negative_prompt: str | None
    seed: int
    width: int
    height: int


class Store(Protocol):
    """What a worker needs of the database; every write is fenced and safe to repeat."""

    def claim(self, microbatch_id: str, *, tier: str, worker: str, lease_seconds: float) -> Claim | None:
        """Take the microbatch; None if it is claimed, finished, of another tier or unknown."""

    def renew(self, claim: Claim) -> bool:
        """Prolong the lease; False if a newer claim exists or the microbatch is closed."""

    def cancelled(self, claim: Claim) -> frozenset[str]:
        """Return the job ids of this claim that somebody asked to cancel."""

    def record(self, claim: Claim, outcomes: Sequence[JobOutcome]) -> bool:
        """Write outcomes, pictures, scores and settlement in one transaction; False if the fence is old."""

    def finish(self, claim: Claim) -> bool:
        """Close the microbatch: cancel what was asked to be cancelled, release what is left of the money."""

    def release(self, claim: Claim, *, reason: str) -> bool:
        """Give an unfinished microbatch back without counting a death (drain, full disk, load failure)."""


class Generator(Protocol):
    """A loaded pipeline of one tier."""

    model_id: str
    model_revision: str
    settings: str  # JSON text of everything that shapes the pixels

    def generate(self, requests: Sequence[RenderRequest]) -> Sequence[bytes | Exception]:
        """Return one PNG per request, in order; an exception in place of a picture that cannot be made."""


class Scorer(Protocol):
    """Judges pictures against their prompts."""

    def score(self, pictures: Sequence[bytes], prompts: Sequence[str]) -> Sequence[Mapping[str, float]]:
        """Return metric -> [0, 1] per PNG picture."""


class Pictures(Protocol):
    """A store of finished pictures, named by the SHA-256 of their bytes."""

    def put(self, png: bytes) -> str:
        """Store a picture durably and return its name; raises StoreFull."""
