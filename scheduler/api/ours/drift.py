"""Predictor drift: predicted beside measured superiority of jobs that both tiers drew. Read only.

The comparison is `scheduler.drift`'s, as for `routet2i predictor drift`.
"""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict

from scheduler.api.callers import Auditor
from scheduler.api.deployment import repository_of, settings_of
from scheduler.comparison import compare
from scheduler.drift import RULE

MOST_PAIRS = 5_000

router = APIRouter(prefix="/routet2i/v1/predictor", tags=["predictor"])


class _Row(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Estimate(_Row):
    """A figure with its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class Round(_Row):
    """The pairs of one window."""

    window_id: str
    committed_at: datetime
    pairs: int
    predicted: float
    measured: float
    difference: float


class Version(BaseModel):
    """One predictor version."""

    name: str
    version: str
    pairs: int
    predicted: float
    measured: float
    difference: Estimate
    calibration_error: Estimate
    spearman: float | None
    own_constants: bool
    alarm: bool
    windows: list[Round]


class Drifts(BaseModel):
    """Every version that pairs are known of, and the rule of the alarm."""

    object: Literal["list"] = "list"
    rule: str
    live: str | None
    data: list[Version]


@router.get("/drift")
def drift(
    request: Request,
    caller: Auditor,
    pairs: Annotated[int, Query(ge=1, le=MOST_PAIRS, description="newest pairs that are compared")] = 1_000,
) -> Drifts:
    """Compare predictions with pictures where both tiers drew the same prompt."""
    settings = settings_of(request)
    repository = repository_of(request)
    found = compare(
        repository.shadow_pairs(limit=pairs),
        yardsticks=repository.yardsticks(),
        tiers=settings.read_tiers(),
        weights=settings.read_metrics().weights,
    )
    return Drifts(
        rule=RULE,
        live=repository.live_predictor(),
        data=[
            Version(
                name=one.name,
                version=one.version,
                pairs=one.drift.pairs,
                predicted=one.drift.predicted,
                measured=one.drift.measured,
                difference=Estimate.model_validate(one.drift.difference),
                calibration_error=Estimate.model_validate(one.drift.calibration_error),
                spearman=one.drift.spearman,
                own_constants=one.drift.own_constants,
                alarm=one.drift.alarm,
                windows=[Round.model_validate(window) for window in one.drift.windows[-100:]],
            )
            for one in found
        ],
    )
