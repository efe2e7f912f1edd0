"""A preview of some lines: split, money, predicted quality, before anything is drawn; kept for a submission.

The choice is `scheduler.preview`'s, so that what is shown is what a submission with it gets. It submits
nothing.
"""

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from routet2i.contracts import GenerationRequest, PreviewHead, Rejection
from routet2i.errors import BudgetTooSmall
from routet2i.settings import Settings
from scheduler.api.answers import Refused
from scheduler.api.callers import Submitter
from scheduler.api.deployment import repository_of, settings_of
from scheduler.api.ours.batches import micro, usd
from scheduler.api.turns import Turn
from scheduler.intake import read_requests
from scheduler.predictor.interface import Predictor, Registry
from scheduler.predictor.live import follow
from scheduler.predictor.yardsticks import yardstick_of
from scheduler.preview import Cut, plan
from scheduler.preview_draft import Draft
from scheduler.preview_lines import preview_lines
from scheduler.promise import dollars
from scheduler.speeds import Speeds

MOST_LINES = 10_000  # of one preview
ASKED = 256  # prompts predicted at once

router = APIRouter(prefix="/routet2i/v1/previews", tags=["previews"])


class Wanted(BaseModel):
    """Lines as of a JSONL file, and either a budget, or a quality to reach as cheaply as possible."""

    model_config = ConfigDict(extra="forbid")

    lines: list[dict[str, Any]] = Field(min_length=1, max_length=MOST_LINES)
    budget_usd: float | None = Field(None, ge=0, le=1e9)
    quality: float | None = Field(None, gt=0, le=1, description="share of all-cloud's gain")


class Part(BaseModel):
    """What one tier would draw."""

    tier: str
    jobs: int
    pictures: int
    cost_usd: float
    device_seconds: float | None


class Means(BaseModel):
    """A metric's predicted mean."""

    edge: float
    chosen: float
    cloud: float


class Step(BaseModel):
    """A job at the cut."""

    line_no: int
    custom_id: str
    prs: float
    tier: str
    extra_usd: float
    gain: float

    @classmethod
    def of(cls, cut: Cut | None) -> "Step | None":
        """Return a cut as an answer."""
        if cut is None:
            return None
        return cls(
            line_no=cut.line_no,
            custom_id=cut.custom_id,
            prs=cut.prs,
            tier=cut.tier,
            extra_usd=cut.extra_micro_usd / 1_000_000,
            gain=cut.gain,
        )


class Bad(BaseModel):
    """A line that would be no job."""

    line_no: int
    reason: str
    remedy: str


class Foreseen(BaseModel):
    """What a batch of these lines would come to."""

    object: Literal["routet2i.preview"] = "routet2i.preview"
    id: str
    file_sha256: str = Field(description="of the file to submit: a line each, as by Python's json.dumps")
    predictor: str
    predictor_version: str
    jobs: int
    pictures: int
    budget_usd: float | None
    cost_usd: float
    floor_usd: float
    ceiling_usd: float
    gain: float
    gain_all_cloud: float
    gain_best: float
    tiers: list[Part]
    metrics: dict[str, Means]
    last_bought: Step | None
    first_refused: Step | None
    rejected: list[Bad]


class Oracle:
    """The predictor that windows ask now, opened when the first preview asks; one preview at a time."""

    def __init__(self, begin: Callable[[], Callable[[], Predictor]]) -> None:
        self._begin = begin
        self._current: Callable[[], Predictor] | None = None
        self._turn = Turn()

    @contextmanager
    def asked(self) -> Iterator[Predictor]:
        """Hold the predictor; raises Refused, and what `open_predictor` raises."""
        with self._turn.taken():
            if self._current is None:
                self._current = self._begin()
            yield self._current()


def oracle_of(settings: Settings, registry: Registry) -> Oracle:
    """Return the oracle of a deployment; nothing is opened yet."""
    return Oracle(lambda: follow(settings.predictor, tiers=settings.read_tiers(), registry=registry))


@router.post("", status_code=201)
def make(request: Request, caller: Submitter, wanted: Wanted) -> Foreseen:
    """Predict, plan, keep the plan, and show it. Submit the same lines from it and it is the bill."""
    if wanted.budget_usd is not None and wanted.quality is not None:
        raise Refused(400, "give budget_usd or quality, not both", code="invalid_request", param="quality")
    settings = settings_of(request)
    oracle: Oracle = request.app.state.oracle
    repository = repository_of(request)
    tiers = settings.read_tiers()
    content = "".join(f"{json.dumps(line)}\n" for line in wanted.lines).encode()
    good: list[GenerationRequest] = []
    bad: list[Rejection] = []
    for item in read_requests(
        io.BytesIO(content),
        fmt="jsonl",
        max_line_bytes=settings.max_line_bytes,
        max_prompt_chars=settings.max_prompt_chars,
        seed_base=b"",
        now_ms=time.time_ns() // 1_000_000,
        tiers=tiers.routed,
    ):
        if isinstance(item, Rejection):
            bad.append(item)
        else:
            good.append(item)
    if not good:
        raise Refused(
            400, f"line {bad[0].line_no}: {bad[0].reason}; {bad[0].remedy}", code="no_prompts", param="lines"
        )
    with oracle.asked() as predictor, Draft(tiers=tiers, yardstick=yardstick_of(predictor)) as draft:
        for start in range(0, len(good), ASKED):
            part = good[start : start + ASKED]
            draft.add(part, predictor.predict([one.prompt for one in part]))
        limit = micro(wanted.budget_usd)
        if limit is not None and limit < draft.floor_micro_usd:
            raise BudgetTooSmall(
                f"the budget of ${dollars(limit)} does not cover {len(draft)} jobs at their cheapest, "
                f"${dollars(draft.floor_micro_usd)}"
            )
        speeds = Speeds.of(tiers, repository.speeds())
        made = plan(draft, budget=limit, quality=wanted.quality, speeds=speeds)
        one = made.preview
        sha256 = hashlib.sha256(content).hexdigest()
        head = PreviewHead(
            file_sha256=sha256,
            fmt="jsonl",
            predictor_name=predictor.name,
            predictor_version=predictor.version,
            budget_micro_usd=one.budget_micro_usd,
            jobs=one.jobs,
            micro_usd=one.micro_usd,
        )
        kept = repository.add_preview(head, preview_lines(made, draft))
    return Foreseen(
        id=kept,
        file_sha256=sha256,
        predictor=predictor.name,
        predictor_version=predictor.version,
        jobs=one.jobs,
        pictures=one.pictures,
        budget_usd=usd(one.budget_micro_usd),
        cost_usd=one.micro_usd / 1_000_000,
        floor_usd=one.floor_micro_usd / 1_000_000,
        ceiling_usd=one.ceiling_micro_usd / 1_000_000,
        gain=one.gain,
        gain_all_cloud=one.gain_all_cloud,
        gain_best=one.gain_best,
        tiers=[
            Part(
                tier=share.tier,
                jobs=share.jobs,
                pictures=share.pictures,
                cost_usd=share.micro_usd / 1_000_000,
                device_seconds=share.seconds,
            )
            for share in one.parts
        ],
        metrics={
            name: Means(edge=told.edge, chosen=told.chosen, cloud=told.cloud)
            for name, told in one.metrics.items()
        },
        last_bought=Step.of(one.last_bought),
        first_refused=Step.of(one.first_refused),
        rejected=[Bad(line_no=no.line_no, reason=no.reason, remedy=no.remedy) for no in bad[:100]],
    )
